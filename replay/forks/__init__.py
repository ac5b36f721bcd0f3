"""Fork an episode at a step and continue it with other actions."""
