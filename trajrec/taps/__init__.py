"""Taps: they see the HTTP exchanges of a process, and can answer from a recording."""
