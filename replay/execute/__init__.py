"""Re-execute one episode and compare it with its recording."""
