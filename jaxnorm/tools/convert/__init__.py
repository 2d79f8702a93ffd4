"""Checkpoints of other frameworks to Flax variables and back: arrays in, arrays out."""
