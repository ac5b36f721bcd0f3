"""Corpora: folders of logs, the episodes in them, and SQL over them."""
