"""The steps of a normalizer; the folders contain the parts of these steps."""
