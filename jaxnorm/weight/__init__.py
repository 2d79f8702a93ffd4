"""Weight reparameterizations, which return the weight that the layer uses."""
