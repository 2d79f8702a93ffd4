"""Optimizers whose weights stay on the unit sphere."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jax import Array
from jaxtyping import PyTree

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm.sample.unit_norm import unit_norm
from jaxnorm.tools.freezing import check_optimizer

if TYPE_CHECKING:
    import optax


def unit_weights(
    optimizer: "optax.GradientTransformation",
    mask: PyTree[bool] | Callable[[PyTree], PyTree[bool]],
    *,
    axes: Axes | None = None,
) -> "optax.GradientTransformation":
    """Returns the optimizer, after each step of which units have a norm of 1.

    With the optimizer's update u of a weight w, the new update goes to the sphere::

        update = unit_norm(w + u) - w

    so that `optax.apply_updates` gives weights of unit norm, up to the rounding of
    their dtype; between, all is computed in float32 or wider. A unit of zeros stays 0.
    The state is that of the optimizer.

    Start on the sphere too, by `jaxnorm.unit_norm` of the initial weights: the first
    step leads there from anywhere, and then is not small. Weights whose length says
    nothing need no weight decay. What follows in an `optax.chain` would lead away
    again: wrap the whole chain.

    Args:
      optimizer: Any of optax.
      mask: Booleans, which weights; in the structure of the parameters, or of a prefix
        of it; or a function of the parameters that returns them.
      axes: The axis or axes along which the vectors of unit norm lie. None: all but the
        last, which is that of the output units: columns of a dense layer's kernel,
        filters of a convolution. Rows, as of an embedding: -1. For both, wrap twice.

    Raises:
      TypeError: If `optimizer` is not a transformation of optax; while tracing, if a
        weight holds integers.
      ValueError: If the mask is true nowhere; while tracing, if there are no
        parameters, a weight has one axis and `axes` is None, or an axis does not fit.

    Reference:
      Loshchilov et al., 2025, nGPT, section 2.6
      (https://arxiv.org/abs/2410.01131). Lee et al., 2025, SimbaV2
      (https://arxiv.org/abs/2502.15280).

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxnorm.tools import unit_weights
      >>> params = {"kernel": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
      >>> optimizer = unit_weights(optax.sgd(1.0), {"kernel": True})
      >>> gradients = {"kernel": jnp.array([[0.4, 0.0], [-0.8, 3.0]])}
      >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].round(1)
      Array([[ 0.6,  0. ],
             [ 0.8, -1. ]], dtype=float32)
    """
    import optax

    check_optimizer(optimizer)
    optimizer = optax.with_extra_args_support(optimizer)

    def chosen(params: PyTree) -> PyTree[bool]:
        found = mask(params) if callable(mask) else mask
        if not any(jax.tree.leaves(found)):
            raise ValueError(
                "mask must be true for at least one weight, and is true for none. For "
                "all arrays of two or more axes pass lambda params: "
                "jax.tree.map(lambda p: p.ndim > 1, params)."
            )
        return found

    def init(params: PyTree) -> Any:
        chosen(params)
        return optimizer.init(params)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, Any]:
        if params is None:
            raise ValueError(
                "unit_weights needs the parameters, since it normalizes them: "
                "optimizer.update(gradients, state, params)."
            )
        updates, state = optimizer.update(updates, state, params, **extra)

        def to_sphere(is_chosen: bool, update: PyTree, weight: PyTree) -> PyTree:
            if not is_chosen:
                return update
            return jax.tree.map(lambda u, w: _to_sphere(u, w, axes), update, weight)

        return jax.tree.map(to_sphere, chosen(params), updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def _to_sphere(update: Array, weight: Array, axes: Axes | None) -> Array:
    if axes is None:
        if weight.ndim < 2:
            raise ValueError(
                "each weight must have at least two axes, of which the last is that of "
                f"the units, got the shape {weight.shape}. Leave it out of mask, or "
                "pass axes."
            )
        axes = tuple(range(weight.ndim - 1))
    wide = accumulation_dtype(weight.dtype, update.dtype)
    start = weight.astype(wide)
    moved = unit_norm(start + update.astype(wide), axes=axes)
    return (moved - start).astype(update.dtype)
