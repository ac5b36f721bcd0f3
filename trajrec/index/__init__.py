"""The index: DuckDB tables derived from the logs. Never the truth: it can be deleted at any time and is rebuilt."""
