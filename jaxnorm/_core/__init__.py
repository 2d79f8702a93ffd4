"""The way through a normalizer, and below it what that is built from."""
