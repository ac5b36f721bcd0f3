"""The estimators of credit, one module each."""
