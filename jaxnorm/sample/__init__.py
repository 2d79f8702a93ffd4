"""Normalizers whose statistics are those of one example: they return y alone."""
