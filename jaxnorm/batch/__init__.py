"""Normalizers whose statistics cross examples: they return `(y, new_stats)`."""
