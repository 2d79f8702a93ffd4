"""Timing of steps of whole programs in JAX and PyTorch."""
