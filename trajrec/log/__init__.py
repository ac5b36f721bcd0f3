"""The log file: frames, columns, writer, reader, repair. docs/format.md specifies it."""
