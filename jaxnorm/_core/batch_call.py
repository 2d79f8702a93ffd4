"""The arguments of one call of a batch normalizer, and the steps common to all."""

import dataclasses
from typing import Any, Protocol, TypeVar, runtime_checkable

from jax import Array, lax
from jax.typing import ArrayLike

from jaxnorm._core.arguments.axes import split_axes
from jaxnorm._core.arguments.validation import check_flags, check_unbiased
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, output_dtype
from jaxnorm._core.arrays.known import MaybeKnown
from jaxnorm._core.arrays.safe_math import inverse_std
from jaxnorm._core.batch_options import DEFAULTS, BatchOptions, check_options
from jaxnorm._core.call import Call
from jaxnorm._core.moments.compute_moments import compute_moments
from jaxnorm._core.moments.moments import Moments, batch_moments, per_feature
from jaxnorm._core.moments.pooling import pool_moments, pool_moments_about_mean
from jaxnorm._core.moments.shifted_moments import ShiftedMoments, safe_shift
from jaxnorm._core.normalize import normalize_with
from jaxnorm._core.reductions.masking import valid_or_finite, zero_masked
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.momentum import Schedule, check_momentum, resolve_momentum
from jaxnorm._core.running.update_running import update_running
from jaxnorm._core.standardize import Standardization

_State = TypeVar("_State")


@runtime_checkable
class _NamedTuple(Protocol):
    """Any NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...
    def _replace(self, *args: Any, **kwargs: Any) -> Any: ...


_Running = TypeVar("_Running", bound=_NamedTuple)


_FLAGS = ("use_running_average", "use_fast_variance", "unbiased", "skip_nonfinite")


@dataclasses.dataclass(frozen=True)
class BatchCall(Call):
    """The checked arguments of one call of a batch normalizer.

    Attributes:
      use_running_average: As in `BatchOptions`, as are the fields below.
      momentum: A number or a schedule.
      use_fast_variance: Whether moments take one pass over x instead of two.
      unbiased: Whether running variances are unbiased.
      skip_nonfinite: Whether to keep the old state if the new one is not finite.
    """

    use_running_average: bool
    momentum: ArrayLike | Schedule
    use_fast_variance: bool
    unbiased: bool
    skip_nonfinite: bool

    @classmethod
    def from_options(
        cls,
        x: Array,
        scale: Array | None,
        bias: Array | None,
        options: BatchOptions,
    ) -> "BatchCall":
        """Checks the arguments of the user, and aligns them with x."""
        check_options(options)
        given = DEFAULTS | dict(options)
        flags = {name: given[name] for name in _FLAGS}
        check_flags(**flags)
        if not callable(given["momentum"]):
            check_momentum(given["momentum"])

        x = check_inexact(x, "x")
        features, reduced = split_axes(given["feature_axes"], x.ndim)
        names, groups = given["axis_name"], given["axis_index_groups"]
        if given["use_running_average"]:  # nothing is shared then
            names = groups = None
        reduction = Reduction.over(x, reduced, names, groups)
        dtype = output_dtype(given["dtype"], x=x, scale=scale, bias=bias)
        spec = Standardization(reduction, given["epsilon"], dtype)
        call = Call.parse(x, scale, bias, given["mask"], features, spec)
        if call.mask is not None:
            check_unbiased(given["unbiased"], call.mask)
        return cls(**vars(call), momentum=given["momentum"], **flags)

    def average_replicas(self, state: _State) -> _State:
        """Returns the state, made equal on all instances that share statistics."""
        return self.reduction.mapped_axes.average_replicas(state)

    def compute_moments(self, shift: Array) -> ShiftedMoments:
        """Returns the moments of x, given an estimate of the mean, of feature shape."""
        return compute_moments(
            self.x,
            self.reduction,
            mask=self.mask,
            shift=self.align(shift),
            use_fast_variance=self.use_fast_variance,
        )

    def pool_moments(
        self, parts: ShiftedMoments, reduction: Reduction, shift: Array
    ) -> ShiftedMoments:
        """Merges the moments of parts of x.

        Uses one collective, or two if moments take two passes: the first then finds the
        mean of all parts.

        Args:
          parts: Moments of parts of x.
          reduction: The axes along which the parts lie, and mapped axes.
          shift: Shift of the result; with two passes, the mean of features without
            valid elements. Aligned.
        """
        shift = lax.stop_gradient(safe_shift(shift.astype(parts.shift.dtype)))
        if self.use_fast_variance:
            return pool_moments(parts.with_shift(shift), reduction)
        return pool_moments_about_mean(parts, reduction, shift)

    def normalize(
        self,
        mean: Array,
        var: Array,
        *,
        shift: Array | None = None,
        epsilon: float | None = None,
        nonempty: MaybeKnown | None = None,
    ) -> Array:
        """Normalizes x with given statistics, differentiated by JAX itself.

        Args:
          mean: Mean, of the feature shape. With a shift: mean - shift, of x's rank.
          var: Variance, of the same shape.
          shift: First part of the mean, subtracted from x before the second.
          epsilon: Defaults to that of the call.
          nonempty: Where it is False, y is the bias.
        """
        epsilon = self.spec.epsilon if epsilon is None else epsilon
        dtype = accumulation_dtype(self.spec.dtype, self.x.dtype)
        x, valid = self.x, valid_or_finite(self.mask, self.x)
        if shift is None:
            mean, var = self.align(mean), self.align(var)
        else:
            x = zero_masked(valid, x).astype(dtype) - shift.astype(dtype)
        rstd = inverse_std(var, epsilon, dtype, nonempty)
        return normalize_with(
            mean, rstd, x, self.scale, self.bias, valid, self.spec.dtype
        )

    def per_feature(self, moments: ShiftedMoments) -> Moments:
        """Converts moments of x to the public type, of the feature shape."""
        return per_feature(moments, self.x.shape, self.features)

    def update(
        self,
        state: _Running,
        moments: Moments,
        *,
        weight: MaybeKnown | None = None,
        updates: Array | None = None,
    ) -> _Running:
        """Moves running statistics towards the moments of the batch.

        Args:
          state: Running statistics, the same on all instances.
          moments: Moments of the batch, of the feature shape.
          weight: Weight of the old statistics; by default the momentum.
          updates: How many updates to count; 1 by default.
        """
        running = state._asdict()
        if weight is None:
            weight = resolve_momentum(self.momentum, running)
        new = update_running(
            running,
            moments,
            weight=weight,
            unbiased=self.unbiased,
            epsilon=self.spec.epsilon,
            skip_nonfinite=self.skip_nonfinite,
            updates=updates,
        )
        moved: _Running = state._replace(**new)
        return moved


def exact_moments(x: Array, options: BatchOptions) -> Moments:
    """Returns the moments of the elements that a call with these options normalizes.

    Takes two passes, so that they are exact whatever the running statistics are.

    Args:
      x: Input.
      options: Options of the call: at least feature axes, mask and mapped axes.
    """
    return batch_moments(
        x,
        feature_axes=options["feature_axes"],
        mask=options["mask"],
        axis_name=options["axis_name"],
        axis_index_groups=options["axis_index_groups"],
        use_fast_variance=False,
    )
