"""Steps of whole programs that can be timed, of JAX and of PyTorch."""
