"""What is kept for the backward pass of a model under `jax.checkpoint`."""

import functools
from typing import Any, TypeVar

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnorm._core.arrays.known import MaybeKnown, is_known

_Tree = TypeVar("_Tree")

MOMENTS_NAME = "jaxnorm_moments"
"""The name of the sums behind moments, for rematerialization policies.

Under `jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)` a
rematerialized block repeats neither the reductions nor the collective.
"""

INPUT_NAME = "jaxnorm_input"
"""The name of the inputs of normalizers, for rematerialization policies.

See `jaxnorm.checkpoint_policy`, which keeps it.
"""

_policies = jax.checkpoint_policies

KEEP_MOMENTS = _policies.save_only_these_names(MOMENTS_NAME)
"""The policy inside of a normalizer: recompute all but its reductions."""

_POLICY = _policies.save_from_both_policies(
    _policies.dots_saveable,
    _policies.save_only_these_names(INPUT_NAME, MOMENTS_NAME),
)


def tag_for_remat(values: _Tree, name: str = MOMENTS_NAME) -> _Tree:
    """Tags values with a name for rematerialization policies, by default of moments.

    Tag the sums behind moments rather than the moments: a derivative also needs
    intermediate values, which are recomputed from the sums without a reduction, and
    which a policy that keeps only the moments would lose. Values known while tracing
    need no tag.
    """
    return jax.tree.map(functools.partial(_tag, name=name), values)


def _tag(value: MaybeKnown, name: str) -> MaybeKnown:
    """Tags one array; see `tag_for_remat`."""
    if is_known(value):
        return value
    if jnp.iscomplexobj(value):  # which JAX does not name
        return lax.complex(_tag(value.real, name), _tag(value.imag, name))
    return checkpoint_name(value, name)


def tag_input_for_remat(x: Array) -> Array:
    """Returns x tagged with `INPUT_NAME`, so that policies can save it once.

    Use the result in place of x from there on. With that tag alone, a policy that keeps
    x would keep it again for each `jax.checkpoint` inside of the normalizer, which
    returns what it keeps as an output of its own. The second name prevents that: no
    policy keeps it, and recomputing it from the first takes no operation.
    """
    return tag_for_remat(tag_for_remat(x, INPUT_NAME), f"{INPUT_NAME}_again")


def checkpoint_policy(primitive: Any, *avals: Any, **params: Any) -> bool:
    """A policy for `jax.checkpoint` that keeps one activation a layer.

    For whole models. It keeps the results of convolutions and matrix products, the
    inputs of normalizers (`jaxnorm.INPUT_NAME`) and the sums behind their moments
    (`jaxnorm.MOMENTS_NAME`), as far as the backward pass needs them. So a convolution,
    a normalizer and an activation function in a row keep one array in place of two or
    more. The output of the activation function is recomputed, but no convolution, no
    reduction of the normalizer and no collective is repeated.

    Pass the function itself; JAX calls it. Other operations are recomputed too, even
    operations that are not elementwise, such as max-pooling.

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
