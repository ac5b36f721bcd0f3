"""Confidence intervals and quantiles."""
