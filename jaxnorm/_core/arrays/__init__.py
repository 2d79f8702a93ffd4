"""Dtypes, shardings and platforms of arrays, and arithmetic that holds at the edges."""
