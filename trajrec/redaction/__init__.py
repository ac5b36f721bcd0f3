"""Redaction: secrets in recorded values are replaced before a byte is written."""
