"""Normalizers that mix batch, layer and instance statistics."""
