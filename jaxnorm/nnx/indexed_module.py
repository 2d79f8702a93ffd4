"""Batch normalizers with several sets of statistics, of which a call names one."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

import jaxnorm
from jaxnorm.nnx.batch_module import BatchModule, BatchModuleOptions


class IndexedModule(BatchModule):
    """Statistics with a leading axis, along which a call chooses its own.

    Attributes are those of `BatchModule`.
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        number: int,
        *,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        self._number = number
        super().__init__(num_features, rngs=rngs, **options)

    def _init_stats(self, *, counted: bool) -> Any:
        """Returns the running statistics before the first update."""
        return jaxnorm.init_recurrent_stats(
            self._number, self.feature_shape, counted=counted
        )

    def _run_at(
        self,
        index: ArrayLike,
        x: Array,
        use_running_average: bool | None,
        mask: Array | None,
    ) -> Array:
        """Normalizes x with the statistics at `index`; see `BatchModule._run`."""

        def normalize(
            x: Array, stats: Any, *affine: Array | None, **options: Any
        ) -> tuple[Array, Any]:
            return jaxnorm.recurrent_batch_norm(x, stats, index, *affine, **options)

        own = jnp.clip(jnp.asarray(index), 0, self._number - 1)
        return self._run(normalize, x, use_running_average, mask, (own,))
