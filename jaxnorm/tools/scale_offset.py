"""Scales that are stored as they are, or as the distance from 1."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import PyTree

from jaxnorm._core.arguments.validation import check_finite
from jaxnorm._core.arguments.warning import warn_caller
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm.tools._trees import Path, as_paths, is_box, keys, leaves
from jaxnorm.tools.normalization_mask import normalization_mask

_NEAR = 0.25  # of a center, for a value to be one of its cluster


def shift_scales(variables: PyTree, layers: Collection[Path], by: float) -> PyTree:
    """Adds a number to the stored scales of normalizers.

    For a model whose `scale_offset` changes, and whose outputs must not: what the new
    offset lacks is added to the scales. From scales to distances from 1 it is -1::

        RMSNorm(), scales             ->  RMSNorm(scale_offset=1.0), shifted by -1

    The sum is computed in float32 or wider, as the layers compute it, and rounded to
    the dtype of the scale. In float32 a shift by 1, from distances to scales, thus
    changes no output, not by a bit. A bfloat16 scale has 8 bits: one of 1.003 becomes
    1, though as a distance 0.003 was well told from 0. Store it in float32 first.

    Args:
      variables: A Linen model's, {"params": ..., ...}, or its `params` alone; or an NNX
        model's, as a pure dict or as `nnx.state(model, nnx.Param)`.
      layers: Paths of normalizers, or of what they are in, whose normalizers
        `normalization_mask` then tells: ("decoder", "RMSNorm_0"), ("decoder",), or ()
        for the whole model; without the collection.
      by: What to add.

    Returns:
      Variables of the same structure, with other scales.

    Raises:
      TypeError: If a scale is neither floating nor complex, `by` is not a number, or a
        path is not a tuple.
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
    """Warns where scales look as if an offset of 1 were missing, or there twice.

    A layer multiplies by `scale_offset + scale`, in most layers of most models a number
    about 1. Where at least half of the scales lie within 0.25 of -scale_offset, in more
    than half of the layers, nearly nothing is left of the input, and the offset seems
    to be missing; where they lie so about 2 - scale_offset, and there is an offset, it
    seems to be in the stored scales as well.

    Args:
      variables: As for `shift_scales`; arrays, not traced.
      layers: As for `shift_scales`, of layers that have one offset.
      scale_offset: That of the layers.

    Warns:
      UserWarning: If so.

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
      TypeError: If it is neither floating nor complex.
    """
    if not jnp.issubdtype(scale.dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be floating to be shifted, got {scale.dtype}. Convert it "
            "first: scale.astype(jnp.float32)."
        )
    wide = scale.astype(accumulation_dtype(scale.dtype))
    return (wide + by).astype(scale.dtype)


def warn_of_scales(
    scales: Mapping[str, Any], offsets: Mapping[str, float], *, doubled: bool
) -> None:
    """Warns if the factors of most layers cluster about 0, or about 2.

    Args:
      scales: The stored scale of each layer, by the name for the message.
      offsets: Is added to each.
      doubled: Whether an offset is involved, which may be there twice.
    """
    factors = {
        name: np.asarray(scale, np.complex128) + offsets[name]
        for name, scale in scales.items()
    }
    for center, says in ((0, "is missing"), (2, "is in them twice")):
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
                f"scale_offset + scale must be about 1 in most layers, and is about "
                f"{center} in {len(near)} of {len(factors)}, with scale_offset="
                f"{offsets[first]:g} in {first}. It seems that the offset of 1 {says}. "
                "Set the scale_offset of the layers to that with which the scales were "
                "stored, or add the difference to these: jaxnorm.tools.shift_scales."
            )


def _params(variables: PyTree) -> tuple[PyTree, Any]:
    """Returns the parameters, and what puts others in their place."""
    if isinstance(variables, Mapping) and "params" in variables:
        return variables["params"], lambda new: {**variables, "params": new}
    return variables, lambda new: new


def _scales(variables: PyTree, layers: Collection[Path]) -> dict[Path, Any]:
    """Returns the scales at or below the paths, by their own paths."""
    found = {
        path: leaf
        for path, leaf in leaves(_params(variables)[0]).items()
        if path[-1] == "scale"
    }
    known = leaves(normalization_mask(variables))
    chosen: dict[Path, Any] = {}
    for layer in as_paths(layers, "layers"):
        below = {
            path: leaf
            for path, leaf in found.items()
            if path[:-1] == layer or (path[: len(layer)] == layer and known[path])
        }
        if not below:
            raise ValueError(
                f"layers must be paths of normalizers with a scale, got {layer}, where "
                f"there is none. There are {[path[:-1] for path in found]}."
            )
        chosen |= below
    return chosen
