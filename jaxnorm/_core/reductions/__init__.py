"""Sums over axes and devices, of valid elements."""
