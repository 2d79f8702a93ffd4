"""Per-example norms as Flax NNX modules."""

import dataclasses
from typing import Any

from jax import Array
from jaxtyping import Shaped

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._layers import group, rms
from jaxnorm._layers import sample as layers
from jaxnorm.nnx.module import Described, SampleModule
from jaxnorm.nnx.variables import Parameter, created
from jaxnorm.sample.group_norm import group_length

__all__ = [
    "CausalGroupNorm",
    "GatedRMSNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "ReversibleInstanceNorm",
    "SeedNorm",
    "UnitNorm",
]


class LayerNorm(SampleModule, layers.LayerNorm):
    """Layer normalization, over the features of each example.

    A drop-in superset of `flax.nnx.LayerNorm`: the same arguments, defaults and
    variables. It computes `jaxnorm.layer_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.LayerNorm(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[1.0, 3.0], [10.0, 30.0]])).round(3)
      Array([[-1.,  1.],
             [-1.,  1.]], dtype=float32)
    """


class RMSNorm(SampleModule, rms.RMSNorm):
    """Root mean square normalization, over the features of each example.

    A drop-in superset of `flax.nnx.RMSNorm`: the same arguments, defaults and
    variables. It computes `jaxnorm.rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.RMSNorm(2, scale_offset=1.0, rngs=nnx.Rngs(0))
      >>> norm.scale[...]
      Array([0., 0.], dtype=float32)
      >>> norm(jnp.array([[2.0, 2.0], [3.0, -3.0]])).round(2)
      Array([[ 1.,  1.],
             [ 1., -1.]], dtype=float32)
    """

    def __call__(
        self, x: Shaped[Array, "..."], mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x; as in Flax, the mask may come by position.

        Args:
          x: Input of any shape. Integers are converted to float32, as in Flax.
          mask: Selects valid elements, or gives weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        return self._normalize(x, mask)


class GatedRMSNorm(SampleModule, rms.GatedRMSNorm):
    """Root mean square normalization with a gate, as in Mamba 2 and Qwen3-Next.

    It computes `jaxnorm.gated_rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> x = jnp.array([[2.0, -2.0, 4.0, 4.0]])
      >>> gate = jnp.array([[0.0, 2.0, 0.0, 2.0]])
      >>> norm = jaxnorm.nnx.GatedRMSNorm(
      ...     4, num_groups=2, gate_first=True, rngs=nnx.Rngs(0)
      ... )
      >>> norm(x, gate).round(2)
      Array([[ 0.  , -1.41,  0.  ,  1.41]], dtype=float32)
    """

    def _normalize(self, x: Any, mask: Array | None = None, **inputs: Any) -> Array:
        """Normalizes x; `promote_dtype` gets the gate as well."""
        x = self._convert(x)
        self._check(x)
        params = self._params()
        arrays = (x, inputs["gate"], params["scale"])
        x, gate, params["scale"] = self.promote_dtype(arrays, dtype=self.dtype)
        return self._forward(x, params, self._options(x, mask) | {"gate": gate})


class SeedNorm(SampleModule, rms.SeedNorm):
    """Self-rescaled dynamic normalization (SeeDNorm), whose scale depends on the input.

    Initially it is RMS norm. It computes `jaxnorm.seed_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> init = nnx.initializers.constant(0.5)
      >>> norm = jaxnorm.nnx.SeedNorm(2, beta_init=init, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[3.0, 3.0], [0.1, -0.3]])).round(1)
      Array([[ 2. ,  2. ],
             [ 0.4, -1.2]], dtype=float32)
    """

    alpha: Parameter = created()
    beta: Parameter = created()


class GroupNorm(SampleModule, group.GroupNorm):
    """Group normalization, over groups of adjacent features of each example.

    A drop-in superset of `flax.nnx.GroupNorm`: the same arguments, defaults and
    variables. It computes `jaxnorm.group_norm`.

    Attributes:
      feature_axis: The axis of the features.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
      Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    feature_axis: int = -1
    feature_axes: Axes = dataclasses.field(default=-1, init=False)

    _axes_field = "feature_axis"
    _own_options = ("num_groups", "reduction_axes")  # both numbers are set, as in Flax
    _by_position = ("num_features", "num_groups", "group_size")

    def __post_init__(self) -> None:
        (features,) = self._feature_shape
        self.group_size = group_length(features, self.num_groups, self.group_size)
        self.num_groups = features // self.group_size
        super().__post_init__()


class CausalGroupNorm(SampleModule, group.CausalGroupNorm):
    """Causal group normalization, over all time steps up to the current one.

    It normalizes a stream in chunks: pass the moments that a call returns to the next
    call. Moments are not variables. It computes `jaxnorm.causal_group_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> x = jnp.array([[[0.0, 2.0], [2.0, 0.0], [6.0, 2.0]]])  # batch, time, features
      >>> norm = jaxnorm.nnx.CausalGroupNorm(2, rngs=nnx.Rngs(0))
      >>> first, moments = norm(x[:, :2])
      >>> rest, moments = norm(x[:, 2:], moments)
      >>> rest.round(3)
      Array([[[2., 0.]]], dtype=float32)
    """


class InstanceNorm(SampleModule, layers.InstanceNorm):
    """Instance normalization, over space for each feature of each example.

    A drop-in superset of `flax.nnx.InstanceNorm`: the same arguments, defaults and
    variables. It computes `jaxnorm.instance_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.InstanceNorm(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[[1.0, 10.0], [3.0, 30.0]]])).round(3)
      Array([[[-1., -1.],
              [ 1.,  1.]]], dtype=float32)
    """


class ReversibleInstanceNorm(SampleModule, layers.ReversibleInstanceNorm):
    """Normalizes each series over time, and returns the inverse for forecasts.

    It computes `jaxnorm.reversible_instance_norm`. Variables: `nnx.Param`: scale and
    bias, which the way back inverts; initialize the scale away from 0, since it is
    divided by.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> x = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])  # two series, two times
      >>> norm = jaxnorm.nnx.ReversibleInstanceNorm(1, rngs=nnx.Rngs(0))
      >>> y, undo = norm(x)
      >>> undo(jnp.zeros((2, 3, 1)))[..., 0]  # three times of a forecast
      Array([[ 2.,  2.,  2.],
             [20., 20., 20.]], dtype=float32)
    """


class UnitNorm(Described, rms.UnitNorm):
    """Divides vectors by their length.

    It has no variables. It computes `jaxnorm.unit_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> norm = jaxnorm.nnx.UnitNorm()
      >>> norm(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3)
      Array([[0.6, 0.8],
             [0. , 0. ]], dtype=float32)
    """

    def _normalize(self, x: Any, mask: Array | None = None, **inputs: Any) -> Array:
        """Normalizes x, without parameters and `promote_dtype`."""
        return self._forward(self._convert(x), {}, self._options(x, mask))
