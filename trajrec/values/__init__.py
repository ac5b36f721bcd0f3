"""Values as the log holds them: encoding, digests, differences, JSON. Knows nothing of episodes."""
