"""The log file: records, frames, columns, writer, reader, repair."""
