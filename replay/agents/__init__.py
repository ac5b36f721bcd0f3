"""Replay of agents' episodes: their calls in a fresh world, or the agent against its recording."""
