"""Modules that keep several sets of running statistics, of which a call picks one."""

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

import jaxnorm
from jaxnorm.core.dtypes import floating_input
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchModule


class IndexedBatchModule(BatchModule):
    """A batch module whose statistics have a leading axis; its attributes are the same.

    What the axis is (time steps, domains), and its size, is for the modules to say.
    """

    def normalize(
        self,
        x: ArrayLike,
        index: ArrayLike,
        size: int,
        use_running_average: bool | None,
        mask: Array | None,
    ) -> Array:
        """Normalizes x with the statistics at one index, which move in training.

        Args:
          x: Input, all of which belongs to the index.
          index: An integer scalar; one beyond the last means the last.
          size: Size of the leading axis.
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights.
        """
        x = floating_input(x)
        options = self.options(x, use_running_average, mask)
        shape = self.feature_shape(x)
        initial = jaxnorm.init_recurrent_stats(
            size, shape, self.stats_dtype, counted=self.counts(options)
        )
        stats = initial._replace(**self.read(initial._asdict()))
        scale, bias = affine_params(self, shape)

        def moments() -> jaxnorm.Moments:
            here = jnp.clip(jnp.asarray(index), 0, size - 1)
            return jax.tree.map(
                # count 0 elsewhere, so that nothing changes there
                lambda leaf: (
                    jnp.zeros((size, *leaf.shape), leaf.dtype).at[here].set(leaf)
                ),
                self.moments(x, options),
            )

        self.collect(moments)
        y, new = jaxnorm.recurrent_batch_norm(x, stats, index, scale, bias, **options)
        self.store(new._asdict(), options)
        return y
