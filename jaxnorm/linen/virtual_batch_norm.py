"""Virtual batch normalization as a Flax Linen module."""

from typing import Any

from jax import Array

import jaxnorm
from jaxnorm._layers import virtual as layers
from jaxnorm._layers.fields import Arrays
from jaxnorm.linen.module import Module

__all__ = ["VirtualBatchNorm"]

_NAMES = (*jaxnorm.Moments._fields, "size")


class VirtualBatchNorm(Module, layers.VirtualBatchNorm):
    """Normalizes each example with the statistics of a fixed reference batch.

    It computes `jaxnorm.virtual_batch_norm`. Variables: `params`: scale, bias;
    `reference`: the moments of this layer's input in the reference batch. These depend
    on the weights, so each step has two passes::

        def loss(params):
            _, reference = model.apply(
                {"params": params}, reference_batch, mutable=["reference"]
            )
            y = model.apply({"params": params, **reference}, batch)

    A pass with the mutable collection `reference` uses its input as the reference
    batch: it normalizes the batch with the batch's own statistics and collects them.
    Gradients flow through both passes. For inference, keep the last `reference`.

    Example:
      >>> import functools, jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.VirtualBatchNorm()
      >>> reference_batch = jnp.array([[0.0], [2.0], [4.0]])
      >>> params = jax.jit(norm.init)(jax.random.key(0), reference_batch)["params"]
      >>> collect = jax.jit(functools.partial(norm.apply, mutable=["reference"]))
      >>> _, reference = collect({"params": params}, reference_batch)
      >>> x = jnp.array([[2.0], [100.0]])
      >>> jax.jit(norm.apply)({"params": params, **reference}, x)[:, 0].round(2)
      Array([0.  , 1.73], dtype=float32)
    """

    def _normalize(self, x: Any, mask: Array | None) -> Array:
        """Normalizes x; if `reference` is mutable, x becomes the reference batch."""
        x = self._convert(x)
        params = self._params(self._features(x))
        if self.is_mutable_collection("reference"):
            y, reference = self._collect_reference(x, params, mask)
            for name, value in reference.items():
                self.put_variable("reference", name, value)
            return y
        if not self.has_variable("reference", "size"):
            raise ValueError(
                f"{self.name or 'this layer'} needs a reference batch, got none. "
                'Collect it first: _, reference = model.apply({"params": params}, '
                'reference_batch, mutable=["reference"]), then apply the model with '
                '{"params": params, **reference}.'
            )
        stored: Arrays = {name: self.get_variable("reference", name) for name in _NAMES}
        return self._forward(x, stored, params, mask)
