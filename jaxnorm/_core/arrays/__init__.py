"""Dtypes, shardings and platforms of arrays, and arithmetic that is safe at 0."""
