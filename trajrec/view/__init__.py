"""Pages that show a corpus: served to a browser on this machine, or written as one file."""
