"""What an environment's state is, whatever the environment: capture, generators, differences."""
