"""Virtual batch normalization as a Flax NNX module."""

from typing import Unpack

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.dtypes import floating_input
from jaxnorm.nnx.affine import AffineModule, AffineOptions, hashable, read


class Reference(nnx.Variable[Array]):
    """Moments of the reference batch, or its size."""


class VirtualBatchNorm(AffineModule):
    """Normalizes each example with a reference batch that stays the same.

    The mathematics is that of `jaxnorm.virtual_batch_norm`. The moments of this layer's
    input in the reference batch depend on the weights, so each step has two passes::

        def loss(model):
            nnx.view(model, collect_reference=True)(reference_batch)
            y = model(batch)

    The first takes its batch for the reference: it is normalized with its own
    statistics, which are collected. Gradients flow through both passes. Inference uses
    the last reference. A call before the first one is an error; under `jax.jit`, where
    it cannot be seen whether there is one, all its results are NaN.

    Attributes are those of `AffineModule` and, with the same meaning, of
    `jaxnorm.linen.VirtualBatchNorm`, and:

    Attributes:
      collect_reference: Whether the input is the reference batch.
      reference: `Reference` by the names count, mean, var and size.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.VirtualBatchNorm(1, rngs=nnx.Rngs(0))
      >>> reference_batch = jnp.array([[0.0], [2.0], [4.0]])
      >>> _ = nnx.view(norm, collect_reference=True)(reference_batch)
      >>> norm(jnp.array([[2.0], [100.0]]))[:, 0].round(2)
      Array([0.  , 1.73], dtype=float32)
    """

    _axes_attribute = "axis"

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        include_self: bool = True,
        axis: Axes = -1,
        epsilon: float = 1e-5,
        collect_reference: bool = False,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **affine)
        self.include_self = include_self
        self.axis = hashable(axis)
        self.epsilon = epsilon
        self.collect_reference = collect_reference
        # Under jit nobody can ask whether there is a reference; NaN tells.
        shapes = dict.fromkeys(jaxnorm.Moments._fields, self.feature_shape)
        self.reference = nnx.data(
            {
                name: Reference(jnp.full(shape, jnp.nan, jnp.float32))
                for name, shape in (shapes | {"size": ()}).items()
            }
        )

    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x, and collects its moments if it is the reference batch.

        Args:
          x: Input of shape (batch, ...).
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.

        Raises:
          ValueError: If there is no reference batch yet, and the call is not traced.
        """
        stored = {name: read(value) for name, value in self.reference.items()}
        x, scale, bias = self._promote(floating_input(x), stored["mean"], stored["var"])
        if self.collect_reference:
            y, moments, size = jaxnorm.collect_reference(
                x,
                scale,
                bias,
                epsilon=self.epsilon,
                feature_axes=self.axis,
                mask=mask,
                dtype=self.dtype,
            )
            for name, value in (moments._asdict() | {"size": size}).items():
                self.reference[name].set_value(value)
            return y
        size = stored.pop("size")
        if not isinstance(size, jax.core.Tracer) and jnp.isnan(size):
            raise ValueError(
                f"{type(self).__name__} needs a reference batch, and has none. Collect "
                "it first: nnx.view(model, collect_reference=True)(reference_batch), "
                "then call the model."
            )
        return jaxnorm.virtual_batch_norm(
            x,
            jaxnorm.Moments(**stored),
            scale,
            bias,
            reference_size=size,
            include_self=self.include_self,
            epsilon=self.epsilon,
            feature_axes=self.axis,
            mask=mask,
            dtype=self.dtype,
        )

    def set_view(self, collect_reference: bool | None = None) -> None:
        """Sets what `nnx.view` asks for.

        Args:
          collect_reference: Whether the input is the reference batch.
        """
        if collect_reference is not None:
            self.collect_reference = collect_reference
