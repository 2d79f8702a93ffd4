"""Virtual batch normalization as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes, canonical_axes, sizes
from jaxnorm.core.dtypes import floating_input
from jaxnorm.linen.affine import affine_params

_NAMES = ("count", "mean", "var", "size")


class VirtualBatchNorm(nn.Module):
    """Normalizes each example with a reference batch that stays the same.

    The mathematics is that of `jaxnorm.virtual_batch_norm`. Variables: `params`: scale,
    bias; `reference`: the moments of this layer's input in the reference batch. They
    depend on the weights, so each step has two passes::

        def loss(params):
            _, reference = model.apply(
                {"params": params}, reference_batch, mutable=["reference"]
            )
            y = model.apply({"params": params, **reference}, batch)

    A pass in which the collection `reference` is mutable takes its batch for the
    reference: it is normalized with its own statistics, which are collected. Gradients
    flow through both passes. For inference keep the last `reference`.

    Attributes:
      include_self: Whether an example counts as one more member of the reference batch.
      axis: The feature axis or axes.
      epsilon: Added to the variance; at least 0.
      dtype: Dtype of the result; by default what the input and parameters promote to.
      param_dtype: Dtype of scale and bias.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.

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

    include_self: bool = True
    axis: Axes = -1
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
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
        """
        x = floating_input(x)
        features = canonical_axes(self.axis, x.ndim, "axis")
        scale, bias = affine_params(self, sizes(x.shape, features))
        if self.is_mutable_collection("reference"):
            y, moments, size = jaxnorm.collect_reference(
                x,
                scale,
                bias,
                epsilon=self.epsilon,
                feature_axes=features,
                mask=mask,
                dtype=self.dtype,
            )
            for name, value in zip(_NAMES, (*moments, size), strict=True):
                self.put_variable("reference", name, value)
            return y
        if not self.has_variable("reference", "size"):
            raise ValueError(
                f"{self.name or 'this layer'} needs a reference batch, and has none. "
                'Collect it first: _, reference = model.apply({"params": params}, '
                'reference_batch, mutable=["reference"]), then apply the model with '
                '{"params": params, **reference}.'
            )
        stored: list[Array] = [self.get_variable("reference", name) for name in _NAMES]
        return jaxnorm.virtual_batch_norm(
            x,
            jaxnorm.Moments(*stored[:-1]),
            scale,
            bias,
            reference_size=stored[-1],
            include_self=self.include_self,
            epsilon=self.epsilon,
            feature_axes=features,
            mask=mask,
            dtype=self.dtype,
        )
