"""The folder on PYTHONPATH of a command: Python imports its `sitecustomize` at the start."""
