"""The dialects of model calls, one module each; `choose` tells which one a request is in."""
