"""Processes that replay and fork: workers, Ray tasks, references to episodes."""
