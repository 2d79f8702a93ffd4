"""EvoNorm B0 as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.linen.affine import affine_params, floating_input
from jaxnorm.linen.batch_module import BatchModule


class EvoNormB0(BatchModule):
    """Normalization by batch and instance, and the activation, in one.

    The mathematics is that of `jaxnorm.evo_norm_b0`. Variables: `params`: scale, bias
    and v; `batch_stats`: var. No activation should follow.

    Attributes are those of `BatchModule`, whose momentum is a number here, and:

    Attributes:
      v_init: Initializer of v; 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.EvoNormB0(momentum=0.0)
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["var"]
      Array([1.], dtype=float32)
    """

    v_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of shape (batch, ...).
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x = floating_input(x)
        options = self.options(x, use_running_average, mask)
        shape = self.feature_shape(x)
        initial = jaxnorm.init_batch_stats(shape, self.stats_dtype)
        state = self.read({"var": initial.var})
        v = self.param("v", self.v_init, shape, self.param_dtype)
        scale, bias = affine_params(self, shape)
        y, new = jaxnorm.evo_norm_b0(x, state["var"], v, scale, bias, **options)
        self.store({"var": new}, options)
        return y
