"""What if: an agent's own program, run from a step of its recorded episode on, with one change."""
