"""The steps of a normalizer; in the folders below, what they are built from."""
