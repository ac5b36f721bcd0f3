"""The index: DuckDB tables derived from the logs. It can be deleted at any time and is rebuilt."""
