"""Hooks in frameworks of agents, which record the tool calls that these make."""
