"""Estimates with their intervals, the log that they are appended to, and plots."""
