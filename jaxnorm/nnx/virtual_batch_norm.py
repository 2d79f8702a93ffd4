"""Virtual batch normalization as a Flax NNX module."""

from typing import Any

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp

import jaxnorm
from jaxnorm._layers import virtual as layers
from jaxnorm.nnx.module import Module
from jaxnorm.nnx.variables import read

__all__ = ["Reference", "VirtualBatchNorm"]


class Reference(nnx.Variable[Array]):
    """Moments of the reference batch, or its size."""


class VirtualBatchNorm(Module, layers.VirtualBatchNorm):
    """Normalizes each example with the statistics of a fixed reference batch.

    It computes `jaxnorm.virtual_batch_norm`. The moments of this layer's input in the
    reference batch depend on the weights, so each step has two passes::

        def loss(model):
            nnx.view(model, collect_reference=True)(reference_batch)
            y = model(batch)

    The first pass uses its input as the reference batch: it normalizes the batch with
    the batch's own statistics and collects them. Gradients flow through both passes.
    Inference uses the last reference. Calling the module before a reference is
    collected raises an error; under `jax.jit`, which cannot detect this, the output is
    NaN.

    Attributes:
      collect_reference: Whether the input is the reference batch.
      reference: A dict of `Reference` variables: count, mean, var and size.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.VirtualBatchNorm(1, rngs=nnx.Rngs(0))
      >>> reference_batch = jnp.array([[0.0], [2.0], [4.0]])
      >>> _ = nnx.view(norm, collect_reference=True)(reference_batch)
      >>> norm(jnp.array([[2.0], [100.0]]))[:, 0].round(2)
      Array([0.  , 1.73], dtype=float32)
    """

    collect_reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # NaN marks a missing reference, which jit cannot detect.
        shapes = dict.fromkeys(jaxnorm.Moments._fields, self._feature_shape)
        self.reference = nnx.data(
            {
                name: Reference(jnp.full(shape, jnp.nan, jnp.float32))
                for name, shape in (shapes | {"size": ()}).items()
            }
        )

    def _normalize(self, x: Any, mask: Array | None) -> Array:
        """Normalizes x; with `collect_reference`, x becomes the reference batch."""
        stored = {name: read(value) for name, value in self.reference.items()}
        x = self._convert(x)
        x, params = self._promote(x, stored["mean"], stored["var"])
        if self.collect_reference:
            y, reference = self._collect_reference(x, params, mask)
            for name, value in reference.items():
                self.reference[name].set_value(value)
            return y
        size = stored["size"]
        if not isinstance(size, jax.core.Tracer) and jnp.isnan(size):
            raise ValueError(
                f"{type(self).__name__} needs a reference batch, got none. Collect it "
                "first: nnx.view(model, collect_reference=True)(reference_batch), "
                "then call the model."
            )
        return self._forward(x, stored, params, mask)

    def set_view(self, collect_reference: bool | None = None) -> None:
        """Sets the attributes that `nnx.view` passes.

        Args:
          collect_reference: Whether the input is the reference batch.
        """
        if collect_reference is not None:
            self.collect_reference = collect_reference
