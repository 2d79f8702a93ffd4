"""Converters between checkpoints of other frameworks and Flax variables."""
