"""Batch normalization as a Flax Linen module."""

from collections.abc import Sequence

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes, canonical_axes, sizes
from jaxnorm.core.collectives import Groups
from jaxnorm.core.momentum import Schedule


class BatchNorm(nn.Module):
    """Batch normalization with running statistics in the `batch_stats` collection.

    A drop-in superset of `flax.linen.BatchNorm`: the same arguments, defaults, variable
    tree (`params`: scale, bias; `batch_stats`: mean, var) and initialization, so that
    its checkpoints load unchanged. The mathematics is that of `jaxnorm.batch_norm`.

    While initializing, no statistic is updated and no device is asked.

    Attributes:
      use_running_average: False in training, True in inference; here or in the call.
      axis: The feature axis or axes.
      momentum: Weight of the old statistics, in [0, 1], or a function of the number of
        updates, for instance `jaxnorm.warmup_momentum()`. That number then lives in
        `batch_stats` as `count`, a float32 scalar.
      epsilon: Added to the variance; at least 0.
      dtype: Dtype of the result; by default what the input and parameters promote to.
      param_dtype: Dtype of scale and bias.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
      axis_name: Mapped axis or axes over which statistics are shared. Under `jax.jit` a
        sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      use_fast_variance: One pass over the input, or two; see `jaxnorm.batch_norm`.
      force_float32_reductions: Whether the statistics are stored in float32; False:
        in `param_dtype`. They are computed in float32 or wider in any case.
      unbiased: Whether the running variance takes the batch's times n / (n - 1).
      skip_nonfinite: Whether all statistics of the layer stay as they were when the
        batch's are not finite.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> norm = jaxnorm.linen.BatchNorm(momentum=0.5)
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"]
      Array([ 1., 10.], dtype=float32)
    """

    use_running_average: bool | None = None
    axis: Axes = -1
    momentum: float | Schedule = 0.99
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased: bool = False
    skip_nonfinite: bool = False

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "..."],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape. Integers are converted to float32, as in Flax.
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            x = x.astype(jnp.float32)
        features = canonical_axes(self.axis, x.ndim, "axis")
        feature_shape = sizes(x.shape, features)
        initializing = self.is_initializing()
        stats = jaxnorm.init_batch_stats(
            feature_shape,
            jnp.float32 if self.force_float32_reductions else self.param_dtype,
            # Inference has no use for the number of updates, and loads what lacks it.
            counted=callable(self.momentum)
            and (initializing or not use_running_average),
        )
        self._check_count(stats)
        variables = {
            name: self.variable("batch_stats", name, lambda value=value: value)
            for name, value in stats._asdict().items()
        }
        scale = bias = None
        if self.use_scale:
            scale = self.param(
                "scale", self.scale_init, feature_shape, self.param_dtype
            )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, feature_shape, self.param_dtype)

        y, new_stats = jaxnorm.batch_norm(
            x,
            stats._replace(**{name: v.value for name, v in variables.items()}),
            scale,
            bias,
            use_running_average=use_running_average,
            momentum=self.momentum,
            epsilon=self.epsilon,
            feature_axes=features,
            mask=mask,
            axis_name=None if initializing else self.axis_name,
            axis_index_groups=None if initializing else self.axis_index_groups,
            use_fast_variance=self.use_fast_variance,
            unbiased=self.unbiased,
            skip_nonfinite=self.skip_nonfinite,
            dtype=self.dtype,
        )
        if not use_running_average and not initializing:
            for name, variable in variables.items():
                variable.value = getattr(new_stats, name)
        return y

    def _check_count(
        self, stats: jaxnorm.BatchStats | jaxnorm.CountedBatchStats
    ) -> None:
        missing = [n for n in stats._fields if not self.has_variable("batch_stats", n)]
        if missing == ["count"]:
            raise ValueError(
                "momentum as a function needs the number of updates, but batch_stats "
                f"has mean and var of {self.name or 'this layer'} without count. Add "
                "it: 0 for statistics to be forgotten soon, a large number for a plain "
                "average to go on; or pass a constant momentum."
            )
