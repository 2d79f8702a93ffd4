"""Projections that keep the gates of batch-instance norm in [0, 1]."""

from typing import TYPE_CHECKING, TypeVar

import jax
from jax import numpy as jnp

from jaxnorm._core.arrays.boxes import is_box

if TYPE_CHECKING:
    import optax

_Tree = TypeVar("_Tree")


def project_gates(params: _Tree) -> _Tree:
    """Returns the parameters with every `gate` clipped to [0, 1], others unchanged.

    Args:
      params: Parameters in any structure; a gate is an array under the key or attribute
        "gate", with or without a box of Flax.

    Reference:
      Nam and Kim, 2018, Batch-Instance Normalization, equation 4
      (https://arxiv.org/abs/1805.07925).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> jaxnorm.project_gates({"gate": jnp.array([-0.5, 0.5, 1.5])})
      {'gate': Array([0. , 0.5, 1. ], dtype=float32)}
    """

    def project(path: tuple[object, ...], leaf: _Tree) -> _Tree:
        if not path or jax.tree_util.keystr(path[-1:], simple=True) != "gate":
            return leaf
        return jax.tree.map(lambda gate: jnp.clip(gate, 0, 1), leaf)

    return jax.tree_util.tree_map_with_path(project, params, is_leaf=is_box)


def gate_projection() -> "optax.GradientTransformation":
    """Returns `project_gates` as an optax transformation, the last one of a chain.

    The transformation changes the updates of the gates so that `optax.apply_updates`
    keeps them in [0, 1]. Its `update` needs the parameters.

    Example:
      >>> import jax.numpy as jnp, jaxnorm, optax
      >>> optimizer = optax.chain(optax.sgd(1.0), jaxnorm.gate_projection())
      >>> params = {"gate": jnp.array([0.5])}
      >>> updates, _ = optimizer.update(
      ...     {"gate": jnp.array([-2.0])}, optimizer.init(params), params
      ... )
      >>> optax.apply_updates(params, updates)
      {'gate': Array([1.], dtype=float32)}
    """
    import optax

    def update(
        updates: optax.Updates, params: optax.Params | None = None
    ) -> optax.Updates:
        if params is None:
            raise ValueError(
                "The update of gate_projection needs the parameters, got params=None. "
                "Call optimizer.update(gradients, state, params)."
            )
        return jax.tree.map(
            lambda update, projected, param: jnp.where(
                projected == param + update, update, projected - param
            ),
            updates,
            project_gates(optax.apply_updates(params, updates)),
            params,
        )

    return optax.stateless(update)
