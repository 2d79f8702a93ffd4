"""Conversion and checks of scales that are stored as the distance from 1."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import PyTree

from jaxnorm._core.arguments.validation import check_finite
from jaxnorm._core.arguments.warning import warn_caller
from jaxnorm._core.arrays.boxes import is_box
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm.tools._trees import Path, as_paths, keys, leaves
from jaxnorm.tools.normalization_mask import normalization_mask

_NEAR = 0.25  # largest distance from the center of a cluster


def shift_scales(variables: PyTree, layers: Collection[Path], by: float) -> PyTree:
    """Adds a number to the stored scales of normalizers.

    Use it when the `scale_offset` of a model changes but its outputs must not: the
    scales increase by as much as the offset decreases. To turn scales into distances
    from 1, shift them by -1::

        RMSNorm(), scales             ->  RMSNorm(scale_offset=1.0), shifted by -1

    The sum is computed in float32 or wider, as the layers compute it, and rounded to
    the dtype of the scale. So in float32 a shift by 1, from distances to scales, does
    not change any bit of the output. A bfloat16 scale has only 8 significant bits: the
    distance 0.003 becomes the scale 1. Convert such a scale to float32 first.

    Args:
      variables: Variables of a Linen model, {"params": ..., ...}, or only its `params`;
        or of an NNX model, as a pure dict or as `nnx.state(model, nnx.Param)`.
      layers: Paths without the collection, either of normalizers, such as
        ("decoder", "RMSNorm_0"), or of modules that contain normalizers, such as
        ("decoder",), or () for the whole model. `normalization_mask` finds the
        normalizers of a module.
      by: The number to add.

    Returns:
      Variables of the same structure, with the new scales.

    Raises:
      TypeError: If a scale is neither floating nor complex, `by` is not a number, a
        path is not a tuple, or `variables` is not a tree, but a model for instance.
      ValueError: If there is no scale at or below a path, or `by` is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxnorm.tools import shift_scales
      >>> params = {"RMSNorm_0": {"scale": jnp.array([0.0, 0.25])}}
      >>> shift_scales(params, [("RMSNorm_0",)], 1.0)
      {'RMSNorm_0': {'scale': Array([1.  , 1.25], dtype=float32)}}
    """
    by = check_finite(by, "by")
    params, wrap = _params(variables)
    chosen = _scales(variables, layers)

    def shift(path: tuple[object, ...], leaf: Any) -> Any:
        path = keys(path)
        if path not in chosen:
            return leaf
        name = f"the scale of {path[:-1]}"
        return jax.tree.map(lambda scale: shifted(scale, by, name), leaf)

    return wrap(jax.tree_util.tree_map_with_path(shift, params, is_leaf=is_box))


def check_scales(
    variables: PyTree, layers: Collection[Path], *, scale_offset: float
) -> None:
    """Warns if an offset of 1 seems to be missing from scales, or to be added twice.

    A layer multiplies by `scale_offset + scale`, which is about 1 in most layers of
    most models. A layer looks wrong if at least half of these factors are within 0.25
    of 0, which leaves almost nothing of the input, or of 2. If more than half of the
    layers have factors about 0, the offset seems to be missing. If more than half have
    factors about 2, and the offset is not 0, the stored scales seem to include it too.

    Args:
      variables: As for `shift_scales`; the arrays must not be traced.
      layers: As for `shift_scales`; all layers must have the same offset.
      scale_offset: The offset of the layers.

    Warns:
      UserWarning: If the offset seems to be missing, or to be added twice.

    Raises:
      TypeError, ValueError: As `shift_scales`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxnorm.tools import check_scales
      >>> params = {"RMSNorm_0": {"scale": jnp.array([0.01, -0.02])}}
      >>> check_scales(params, [()], scale_offset=1.0)
    """
    offset = check_finite(scale_offset, "scale_offset")
    scales = {
        str(path[:-1]): np.concatenate([np.ravel(x) for x in jax.tree.leaves(leaf)])
        for path, leaf in _scales(variables, layers).items()
    }
    warn_of_scales(scales, dict.fromkeys(scales, offset), doubled=offset != 0)


def shifted(scale: Any, by: float, name: str) -> Any:
    """Returns `scale + by`, rounded once to the dtype of scale.

    Raises:
      TypeError: If the scale is neither floating nor complex.
    """
    if not jnp.issubdtype(scale.dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be a floating-point array, got {scale.dtype}. Convert it "
            "first: scale.astype(jnp.float32)."
        )
    wide = scale.astype(accumulation_dtype(scale.dtype))
    return (wide + by).astype(scale.dtype)


def warn_of_scales(
    scales: Mapping[str, Any], offsets: Mapping[str, float], *, doubled: bool
) -> None:
    """Warns if `offset + scale` is about 0 or about 2 in most layers.

    Args:
      scales: The stored scale of each layer, by its name in the message.
      offsets: The offset of each layer.
      doubled: Whether to warn about 2 also, because an offset may be added twice.
    """
    factors = {
        name: np.asarray(scale, np.complex128) + offsets[name]
        for name, scale in scales.items()
    }
    for center, problem in ((0, "is missing"), (2, "is added twice")):
        if center and not doubled:
            continue
        near = [
            name
            for name, factor in factors.items()
            if factor.size and np.mean(np.abs(factor - center) <= _NEAR) >= 0.5
        ]
        if 2 * len(near) > len(factors):
            first = near[0]
            warn_caller(
                f"scale_offset + scale must be about 1 in most layers, but is about "
                f"{center} in {len(near)} of {len(factors)}, with scale_offset="
                f"{offsets[first]:g} in {first}. It seems that the offset of 1 "
                f"{problem}. Give the layers the scale_offset for which the scales "
                "were stored, or add the difference to the scales with "
                "jaxnorm.tools.shift_scales."
            )


def _params(variables: PyTree) -> tuple[PyTree, Any]:
    """Returns the parameters, and a function that replaces them in the variables."""
    if isinstance(variables, Mapping) and "params" in variables:
        return variables["params"], lambda new: {**variables, "params": new}
    return variables, lambda new: new


def _scales(variables: PyTree, layers: Collection[Path]) -> dict[Path, Any]:
    """Returns a dict from path to scale, for the scales at or below the given paths."""
    known = leaves(normalization_mask(variables))
    found = {
        path: leaf
        for path, leaf in leaves(_params(variables)[0]).items()
        if path[-1] == "scale"
    }
    chosen: dict[Path, Any] = {}
    for layer in as_paths(layers, "layers"):
        below = {
            path: leaf
            for path, leaf in found.items()
            if path[:-1] == layer or (path[: len(layer)] == layer and known[path])
        }
        if not below:
            raise ValueError(
                f"layers must be paths of normalizers with a scale, got {layer} "
                "without one. The nodes with a scale are "
                f"{[path[:-1] for path in found]}."
            )
        chosen |= below
    return chosen
