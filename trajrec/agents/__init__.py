"""The recorder of agents that call tools and models."""
