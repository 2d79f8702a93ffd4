"""Virtual batch normalization, by the statistics of a reference batch."""

from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm._core.arguments.axes import Axes
from jaxnorm._layers.fields import Arrays, Layer, description


@description
class VirtualBatchNorm(Layer):
    """Virtual batch norm.

    Attributes:
      include_self: Whether an example counts as one more member of the reference batch.
      axis: The feature axis or axes.
      epsilon: Added to the variance; at least 0.
    """

    include_self: bool = True
    axis: Axes = -1
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.ones

    _axes_field = "axis"

    def __call__(
        self, x: Shaped[Array, "batch ..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x, and collects its moments if it is the reference batch.

        Args:
          x: Input of shape (batch, ...).
          mask: Selects valid elements, or gives weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.

        Raises:
          ValueError: If there is no reference batch yet, and this is known while
            tracing.
        """
        return self._normalize(x, mask)

    def _normalize(self, x: Any, mask: Array | None) -> Array:
        """Reads variables, and calls one of the next methods. Modules define it."""
        raise NotImplementedError

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon,
            "feature_axes": self._feature_axes(x),
            "mask": mask,
            "dtype": self.dtype,
        }

    def _collect_reference(
        self, x: Array, params: Arrays, mask: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        """Normalizes the reference batch, and returns its moments and size by name."""
        y, moments, size = jaxnorm.collect_reference(
            x, **params, **self._options(x, mask)
        )
        return y, moments._asdict() | {"size": size}

    def _forward(
        self, x: Array, reference: Arrays, params: Arrays, mask: Array | None
    ) -> Array:
        """Normalizes x, given what `_collect_reference` returned."""
        moments = {name: reference[name] for name in jaxnorm.Moments._fields}
        return jaxnorm.virtual_batch_norm(
            x,
            jaxnorm.Moments(**moments),
            **params,
            reference_size=reference["size"],
            include_self=self.include_self,
            **self._options(x, mask),
        )
