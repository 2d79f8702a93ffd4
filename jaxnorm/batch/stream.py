"""The arithmetic of running norm: one array, and the moments of its stream."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arguments.align import align, align_mask
from jaxnorm._core.arguments.axes import Axes, canonical_axes, other_axes, sizes
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    check_real,
    output_dtype,
    promote,
)
from jaxnorm._core.arrays.safe_math import inverse_std
from jaxnorm._core.moments.compute_moments import compute_moments
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.masking import valid_or_finite, zero_masked
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.running_moments import (
    RunningMoments,
    add_batch,
    cap_count,
    cast_moments,
    check_running_moments,
    running_moments_of,
)
from jaxnorm._core.running.update_running import skip_if_nonfinite


@dataclasses.dataclass(frozen=True)
class Stream:
    """The options of a call, for each array of a tree."""

    update: bool
    feature_axes: Axes
    max_abs: float | None
    max_count: float | None
    epsilon: float
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    skip_nonfinite: bool
    dtype: DTypeLike | None

    def normalize(
        self, x: Array, moments: RunningMoments, mask: Array | None
    ) -> tuple[Array, RunningMoments]:
        """Returns y and the new moments of one array."""
        x = check_inexact(x, "x")
        if self.max_abs is not None:
            check_real("y is clipped to max_abs", x=x)
        features = canonical_axes(self.feature_axes, x.ndim)
        check_running_moments(moments, sizes(x.shape, features), x.dtype)
        mask = align_mask(mask, x)
        result = output_dtype(self.dtype, x=x)
        if not self.update:
            return self._standardize(x, moments, mask, features, result), moments
        new = self._learn(x, moments, mask, features)
        kept = moments.mean.dtype
        if jnp.iscomplexobj(x):
            kept = promote(kept, jnp.complex64)
        return self._standardize(x, new, mask, features, result), cast_moments(
            new, kept
        )

    def _learn(
        self,
        x: Array,
        moments: RunningMoments,
        mask: Array | None,
        features: tuple[int, ...],
    ) -> RunningMoments:
        """Returns the moments updated by a batch x, in the wider dtype of the two."""
        reduced = other_axes(features, x.ndim)
        batch = compute_moments(
            lax.stop_gradient(x),
            Reduction.over(x, reduced, self.axis_name, self.axis_index_groups),
            mask=mask,
            shift=jnp.zeros((1,) * x.ndim, accumulation_dtype(x.dtype)),
            use_fast_variance=False,
        )
        own = running_moments_of(batch)
        own = jax.tree.map(functools.partial(jnp.squeeze, axis=reduced), own)
        old = moments if self.max_count is None else cap_count(moments, self.max_count)
        new = add_batch(old, own)
        if self.skip_nonfinite:
            new = skip_if_nonfinite(own, new, cast_moments(moments, new.mean.dtype))
        return new

    def _standardize(
        self,
        x: Array,
        moments: RunningMoments,
        mask: Array | None,
        features: tuple[int, ...],
        result: DTypeLike,
    ) -> Array:
        """Returns x, standardized and clipped; differentiates in x alone."""
        dtype = accumulation_dtype(result, x.dtype)
        moments = cast_moments(lax.stop_gradient(moments), dtype)
        mean, rest, var = (
            align(value, x, features, "moments")
            for value in (moments.mean, moments.mean_rest, moments.var)
        )
        valid = valid_or_finite(mask, x)
        centered = zero_masked(
            valid, (zero_masked(valid, x).astype(dtype) - mean) - rest
        )
        y = centered * inverse_std(var, self.epsilon, dtype, None).astype(dtype)
        if self.max_abs is not None:
            y = jnp.clip(y, -self.max_abs, self.max_abs)
        return y.astype(result)
