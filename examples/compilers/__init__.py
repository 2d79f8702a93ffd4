"""Compilation for accelerators without having them, and counts of the results."""
