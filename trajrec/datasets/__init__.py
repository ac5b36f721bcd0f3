"""Data for training: the steps of a corpus as arrays, batch by batch."""
