"""Credit measured against problems whose answers are known exactly: P1 to P11, and the quality of the estimators."""
