"""Optimizers that keep weights on the unit sphere."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
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
    """Returns an optimizer that projects weights onto the unit sphere at each step.

    If u is the update of a weight w by the original optimizer, the new update is::

        update = unit_norm(w + u) - w

    So `optax.apply_updates` returns weights of unit norm, up to the rounding of their
    dtype; all computation is in float32 or wider. A unit of zeros stays 0. The state is
    the state of the original optimizer.

    Normalize the initial weights with `jaxnorm.unit_norm`. Otherwise the first step
    projects them onto the sphere, and is not small. These weights need no weight decay,
    because their length has no effect. Transformations that follow in an `optax.chain`
    would move the weights off the sphere again, so wrap the whole chain.

    Args:
      optimizer: Any optax optimizer.
      mask: Booleans that select the weights to normalize, in the structure of the
        parameters or a prefix of it; or a function of the parameters that returns them.
      axes: The axis or axes along which vectors have unit norm. None means all but the
        last, which is the axis of the output units: columns of a dense layer's kernel,
        filters of a convolution. -1 normalizes rows, such as those of an embedding. To
        normalize some weights along one axis and some along another, wrap twice.

    Raises:
      TypeError: If `optimizer` is not an optax transformation; when its functions are
        called, if the mask contains anything but booleans, or a weight holds integers.
      ValueError: If the mask selects no weight; while tracing, if the parameters are
        missing, a weight has one axis and `axes` is None, or an axis is out of range.

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
        for leaf in jax.tree.leaves(found):
            if np.shape(leaf) or np.dtype(getattr(leaf, "dtype", type(leaf))) != bool:
                raise TypeError(
                    "mask must hold booleans, one for each weight, got "
                    f"{type(leaf).__name__}. For all arrays of two or more axes, pass "
                    "lambda params: jax.tree.map(lambda p: p.ndim > 1, params)."
                )
        if not any(jax.tree.leaves(found)):
            raise ValueError(
                "mask must be True for at least one weight, got False for all. To "
                "select all arrays with two or more axes, pass lambda params: "
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
                "The update of unit_weights needs the parameters, which it normalizes, "
                "got params=None. Call optimizer.update(gradients, state, params)."
            )
        updates, state = optimizer.update(updates, state, params, **extra)

        def to_sphere(is_chosen: bool, update: PyTree, weight: PyTree) -> PyTree:
            if not is_chosen:
                return update
            return jax.tree.map(lambda u, w: _to_sphere(u, w, axes), update, weight)

        return jax.tree.map(to_sphere, chosen(params), updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def _to_sphere(update: Array, weight: Array, axes: Axes | None) -> Array:
    """Returns the update after which the weight has unit norm along `axes`."""
    if axes is None:
        if weight.ndim < 2:
            raise ValueError(
                "each weight must have at least two axes, the last for the output "
                f"units, got shape {weight.shape}. Exclude this weight from mask, or "
                "pass axes."
            )
        axes = tuple(range(weight.ndim - 1))
    wide = accumulation_dtype(weight.dtype, update.dtype)
    start = weight.astype(wide)
    moved = unit_norm(start + update.astype(wide), axes=axes)
    return (moved - start).astype(update.dtype)
