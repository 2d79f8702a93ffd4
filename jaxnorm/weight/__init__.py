"""Reparameterizations of weights: they return the weight that the layer uses."""
