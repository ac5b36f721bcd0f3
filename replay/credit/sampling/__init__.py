"""Rollouts from the steps of an episode, under keyed noise."""
