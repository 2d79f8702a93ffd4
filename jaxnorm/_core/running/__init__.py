"""Running statistics, and how they move."""
