"""Optimizers that leave normalizers alone."""

import operator
from collections.abc import Collection
from typing import TYPE_CHECKING

import jax
from jaxtyping import PyTree

from jaxnorm.tools.nodes import Path
from jaxnorm.tools.normalization_mask import normalization_mask

if TYPE_CHECKING:
    import optax


def freeze_parameters(
    optimizer: "optax.GradientTransformation",
    variables: PyTree,
    *,
    norms: Collection[Path] = (),
    only_with_statistics: bool = True,
) -> "optax.GradientTransformation":
    """Returns the optimizer, which then never moves the parameters of batch norms.

    Not by weight decay or momentum either: the optimizer does not see them, keeps no
    state of them, and counts them in no global norm. For fine-tuning. The running
    statistics are another matter: see `jaxnorm.linen.frozen_statistics`, and
    `jaxnorm.linen.freeze_batch_norms` for both.

    Args:
      optimizer: Any of optax.
      variables: As for `normalization_mask`, {"params": ..., "batch_stats": ...} for
        instance: the structure of the parameters that are trained, and the statistics,
        by which batch norms are told.
      norms: Paths of further nodes to freeze; as for `normalization_mask`.
      only_with_statistics: Whether batch normalizers are frozen only, which have
        running statistics, or all normalizers.

    Raises:
      ValueError: If there is nothing to freeze.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxnorm.tools import freeze_parameters
      >>> params = {"norm": {"scale": jnp.ones(1)}, "dense": {"kernel": jnp.ones(1)}}
      >>> stats = {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
      >>> optimizer = freeze_parameters(
      ...     optax.sgd(0.5), {"params": params, "batch_stats": stats}
      ... )
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
      >>> updates["norm"]["scale"], updates["dense"]["kernel"]
      (Array([0.], dtype=float32), Array([-0.5], dtype=float32))
    """
    import optax

    frozen = normalization_mask(
        variables, norms=norms, only_with_statistics=only_with_statistics
    )
    if not any(jax.tree.leaves(frozen)):
        raise ValueError(
            "variables must have normalizers to freeze, and have none"
            + (" with running statistics" if only_with_statistics else "")
            + '. Pass {"params": ..., "batch_stats": ...}, or name paths in norms.'
        )
    return optax.chain(
        optax.masked(optimizer, jax.tree.map(operator.not_, frozen)),
        optax.masked(optax.set_to_zero(), frozen),
    )
