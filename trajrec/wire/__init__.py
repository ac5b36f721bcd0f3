"""HTTP exchanges with model servers: what is kept of them, and what they say."""
