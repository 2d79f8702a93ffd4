"""What is kept for the backward pass of a model under `jax.checkpoint`."""

import functools
from typing import Any, TypeVar

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnorm._core.arrays.known import Known, is_known

_Tree = TypeVar("_Tree")

MOMENTS_NAME = "jaxnorm_moments"
"""The name of what moments are made of, for rematerialization policies.

Under `jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)` a
rematerialized block repeats neither the reductions nor the collective.
"""

INPUT_NAME = "jaxnorm_input"
"""The name of what is normalized, for rematerialization policies.

See `jaxnorm.checkpoint_policy`, which keeps it.
"""

_policies = jax.checkpoint_policies

KEEP_MOMENTS = _policies.save_only_these_names(MOMENTS_NAME)
"""The policy of what a normalizer computes again itself: all but its reductions."""

_POLICY = _policies.save_from_both_policies(
    _policies.dots_saveable,
    _policies.save_only_these_names(INPUT_NAME, MOMENTS_NAME),
)


def tag_for_remat(values: _Tree, name: str = MOMENTS_NAME) -> _Tree:
    """Returns values under a name that policies know; by default, that of moments.

    Of moments, the sums are named, so that what is made of them is made again, and no
    reduction: a derivative needs numbers in between, which no name of the moments
    themselves would keep. What is known while tracing needs no name.
    """
    return jax.tree.map(functools.partial(_tag, name=name), values)


def _tag(value: Known, name: str) -> Known:
    if is_known(value):
        return value
    if jnp.iscomplexobj(value):  # which JAX does not name
        return lax.complex(_tag(value.real, name), _tag(value.imag, name))
    return checkpoint_name(value, name)


def tag_input_for_remat(x: Array) -> Array:
    """Returns the input of a normalizer under the name that policies know.

    To be used from then on in place of x. A policy that keeps x would keep it once more
    for each `jax.checkpoint` inside the normalizer, which hands on what is kept as an
    output of its own. The second name, which no policy asks for, prevents that: it is
    what is made again from the first, by no operation.
    """
    return tag_for_remat(tag_for_remat(x, INPUT_NAME), f"{INPUT_NAME}_again")


def checkpoint_policy(primitive: Any, *avals: Any, **params: Any) -> bool:
    """A policy for `jax.checkpoint` that keeps one activation a layer.

    For whole models. Kept are the results of convolutions and matrix products, the
    inputs of normalizers (`jaxnorm.INPUT_NAME`), and the sums of which their moments
    are made (`jaxnorm.MOMENTS_NAME`); of these, what the backward pass needs. So a
    convolution, a normalizer and an activation function in a row keep one array in
    place of two or more, and the output of the activation function is made again:
    without a convolution, a reduction of the normalizer, or a collective.

    The function is passed as it is; JAX calls it. What is neither kept nor
    elementwise is made again as well, such as max-pooling.

    Args:
      primitive: The operation.
      *avals: Types of its operands.
      **params: Its parameters.

    Returns:
      Whether its results may be kept.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> stats = jaxnorm.init_batch_stats(4)
      >>> def layer(x, w):
      ...     y, _ = jaxnorm.batch_norm(x @ w, stats, use_running_average=False)
      ...     return jax.nn.relu(y)
      >>> def model(x, weights):
      ...     for w in weights:
      ...         x = layer(x, w)
      ...     return x
      >>> model = jax.checkpoint(model, policy=jaxnorm.checkpoint_policy)
      >>> x, weights = jnp.ones((8, 4)), [jnp.eye(4)] * 3
      >>> gradients = jax.grad(lambda weights: model(x, weights).sum())(weights)
    """
    return bool(_POLICY(primitive, *avals, **params))
