"""Find out why an episode diverged, and whether an environment is deterministic."""
