"""The state of a Gymnasium or PettingZoo environment: read it, copy it, restore it."""
