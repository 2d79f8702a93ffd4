"""The arguments of one call of a normalizer, checked and given the rank of x."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
from jax import Array

from jaxnorm._core.arguments.align import align, align_affine, align_mask
from jaxnorm._core.arguments.axes import sizes
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.arrays.rematerialization import KEEP_MOMENTS, tag_input_for_remat
from jaxnorm._core.moments.compute_moments import (
    compute_mean_square,
    compute_own_moments,
)
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.standardize import Standardization, standardize

_Result = TypeVar("_Result")
_Call = TypeVar("_Call", bound="Call")


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments that all normalizers take; arrays have the rank of x.

    Attributes:
      x: Input.
      scale: Multiplies the normalized input; size 1 where shared.
      bias: Added to it; size 1 where shared.
      mask: Booleans or weights, or None.
      features: Canonical feature axes: those of scale and bias.
      spec: The reduction, epsilon, and the dtype of the result.
    """

    x: Array
    scale: Array
    bias: Array
    mask: Array | None
    features: tuple[int, ...]
    spec: Standardization

    @classmethod
    def parse(
        cls,
        x: Array,
        scale: Array | None,
        bias: Array | None,
        mask: Array | None,
        features: tuple[int, ...],
        spec: Standardization,
        scale_offset: float = 0.0,
    ) -> "Call":
        """Checks the arguments of the user, and aligns them with x.

        Args:
          x: Input, checked to be inexact.
          scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
          bias: Same shapes as scale; 0 where None.
          mask: Broadcasts to x, or None.
          features: Canonical feature axes.
          spec: Static part; its epsilon is not checked yet.
          scale_offset: Added to `scale`, if given, in float32 or wider.
        """
        x = tag_input_for_remat(x)
        spec = dataclasses.replace(spec, epsilon=check_epsilon(spec.epsilon))
        scale, bias = align_affine(x, scale, bias, features, scale_offset)
        return cls(x, scale, bias, align_mask(mask, x), features, spec)

    @property
    def reduction(self) -> Reduction:
        """The axes, blocks and devices over which x is reduced."""
        return self.spec.reduction

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Sizes of the feature axes."""
        return sizes(self.x.shape, self.features)

    def align(self, value: Array, name: str = "stats") -> Array:
        """Returns a value of the feature shape with the rank of x."""
        return align(value, self.x, self.features, name)

    def own_moments(self) -> ShiftedMoments:
        """Returns the moments of x, given no estimate of its mean."""
        compute = compute_own_moments if self.spec.center else compute_mean_square
        return compute(self.x, self.reduction, mask=self.mask)

    def standardize(self, moments: ShiftedMoments) -> Array:
        """Normalizes x with the given moments of x, and applies scale and bias."""
        return standardize(self.spec, self.x, moments, self.scale, self.bias, self.mask)

    def rematerialize(self: _Call, compute: Callable[[_Call], _Result]) -> _Result:
        """Returns `compute(self)`, differentiated by JAX as one operation on x.

        x is cast to float32 or wider once, so that the cotangents from its moments and
        from its normalization are added before they are rounded. The backward pass
        needs x in its own dtype and the sums behind the moments, which are saved; it
        repeats neither a reduction nor a collective.
        """

        def run(x: Array) -> _Result:
            x = x.astype(accumulation_dtype(x.dtype))
            made_again = x.dtype != self.x.dtype
            spec = dataclasses.replace(self.spec, rematerialized=made_again)
            return compute(dataclasses.replace(self, x=x, spec=spec))

        return jax.checkpoint(run, policy=KEEP_MOMENTS)(self.x)
