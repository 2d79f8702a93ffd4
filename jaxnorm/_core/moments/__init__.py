"""Counts, means and variances: their type, and how they are computed."""
