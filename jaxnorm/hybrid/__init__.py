"""Normalizers that mix the statistics of the batch, of layers and of instances."""
