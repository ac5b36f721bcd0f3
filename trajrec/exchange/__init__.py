"""Trajectories of other tools: one module for each of their formats, and one writer for all."""
