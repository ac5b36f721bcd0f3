"""The command line. Results go to stdout, messages to stderr, and no command prints a traceback."""
