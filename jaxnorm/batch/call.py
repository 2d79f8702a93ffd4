"""What all batch normalizers do before and after what is their own."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import (
    Any,
    Protocol,
    Required,
    TypedDict,
    TypeVar,
    Unpack,
    runtime_checkable,
)

from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from jaxnorm.core import axes as axes_lib
from jaxnorm.core.affine import affine
from jaxnorm.core.collectives import Groups, MappedAxis
from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.masks import usable
from jaxnorm.core.measure import CenteredMoments, inverse_std, measure, usable_shift
from jaxnorm.core.moments import Moments, batch_moments, per_feature
from jaxnorm.core.momentum import Schedule, check_momentum
from jaxnorm.core.normalize import normalize_with
from jaxnorm.core.pooling import pool, pool_about_mean
from jaxnorm.core.reduction import Reduction
from jaxnorm.core.running import resolve_momentum, update_running
from jaxnorm.core.standardize import Standardization, standardize
from jaxnorm.core.validation import (
    check_epsilon,
    check_flags,
    check_inexact,
    check_unbiased,
)

_State = TypeVar("_State")


@runtime_checkable
class _NamedTuple(Protocol):
    """Any NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...
    def _replace(self, *args: Any, **kwargs: Any) -> Any: ...


_Running = TypeVar("_Running", bound=_NamedTuple)


class BatchOptions(TypedDict, total=False):
    """The keyword options of all batch normalizers; `jaxnorm.batch_norm` says more.

    Attributes:
      use_running_average: False in training, True in inference.
      momentum: Weight of the old statistics, in [0, 1]; 0.99.
      epsilon: Added to the variance; 1e-5.
      feature_axes: The axes that keep their own statistics; the last.
      mask: Which elements count, or their weights; all.
      axis_name: Mapped axes over which statistics are shared; none.
      axis_index_groups: Groups of indices of the one axis; all.
      use_fast_variance: One pass over x, or two; True.
      unbiased: Whether running variances take the factor n / (n - 1); False.
      skip_nonfinite: Whether the state is kept where it would not be finite; False.
      dtype: Dtype of y; what x, scale and bias promote to.
    """

    use_running_average: Required[bool]
    momentum: ArrayLike | Schedule
    epsilon: float
    feature_axes: axes_lib.Axes
    mask: Array | None
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    use_fast_variance: bool
    unbiased: bool
    skip_nonfinite: bool
    dtype: DTypeLike | None


@dataclasses.dataclass(frozen=True)
class BatchCall:
    """The checked arguments of one call, all arrays with the rank of x.

    Attributes:
      x: Input.
      scale: Multiplies the normalized input.
      bias: Is added to it.
      features: Canonical feature axes.
      reduction: All other axes, and the mapped axes.
      spec: What `standardize` has to know.
      use_running_average: As in `BatchOptions`, like all that follow.
      momentum: A number or a schedule.
      mask: Booleans or weights, or None.
      use_fast_variance: One pass, or two.
      unbiased: Whether running variances are unbiased.
      skip_nonfinite: Whether to keep the state where it would not be finite.
    """

    x: Array
    scale: Array
    bias: Array
    features: tuple[int, ...]
    reduction: Reduction
    spec: Standardization
    use_running_average: bool
    momentum: ArrayLike | Schedule
    mask: Array | None
    use_fast_variance: bool
    unbiased: bool
    skip_nonfinite: bool

    @classmethod
    def parse(
        cls,
        x: Array,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> "BatchCall":
        """Checks what the user passed, and brings it to the rank of x."""
        check_options(options)
        return cls._of_known_options(x, scale, bias, **options)

    @classmethod
    def _of_known_options(
        cls,
        x: Array,
        scale: Array | None,
        bias: Array | None,
        *,
        use_running_average: bool,
        momentum: ArrayLike | Schedule = 0.99,
        epsilon: float = 1e-5,
        feature_axes: axes_lib.Axes = -1,
        mask: Array | None = None,
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Groups | None = None,
        use_fast_variance: bool = True,
        unbiased: bool = False,
        skip_nonfinite: bool = False,
        dtype: DTypeLike | None = None,
    ) -> "BatchCall":
        x = check_inexact(x, "x")
        check_flags(
            use_running_average=use_running_average,
            use_fast_variance=use_fast_variance,
            unbiased=unbiased,
            skip_nonfinite=skip_nonfinite,
        )
        features = axes_lib.canonical_axes(feature_axes, x.ndim)
        if not callable(momentum):
            check_momentum(momentum)
        scale, bias, result = affine(x, scale, bias, features, dtype)
        if mask is not None:
            mask = axes_lib.align_mask(mask, x)
            check_unbiased(unbiased, mask)
        if use_running_average:  # nothing is shared then
            axis_name = axis_index_groups = None
        reduction = Reduction(
            axes_lib.other_axes(features, x.ndim),
            MappedAxis.parse(axis_name, axis_index_groups, x),
        )
        return cls(
            x=x,
            scale=scale,
            bias=bias,
            features=features,
            reduction=reduction,
            spec=Standardization(reduction, check_epsilon(epsilon), result),
            use_running_average=use_running_average,
            momentum=momentum,
            mask=mask,
            use_fast_variance=use_fast_variance,
            unbiased=unbiased,
            skip_nonfinite=skip_nonfinite,
        )

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Sizes of the feature axes."""
        return axes_lib.sizes(self.x.shape, self.features)

    def align(self, value: Array, name: str = "stats") -> Array:
        """Returns a value of the feature shape with the rank of x."""
        return axes_lib.align(value, self.x, self.features, name)

    def agree(self, state: _State) -> _State:
        """Returns the state, the same on all instances that share statistics."""
        return self.reduction.across.agree(state)

    def measure(self, shift: Array) -> CenteredMoments:
        """Returns the moments of x, given the feature-shaped mean to shift by."""
        return measure(
            self.x,
            self.reduction,
            mask=self.mask,
            shift=self.align(shift),
            use_fast_variance=self.use_fast_variance,
        )

    def pool(
        self, parts: CenteredMoments, reduction: Reduction, shift: Array
    ) -> CenteredMoments:
        """Returns the moments of parts of x together, merged from theirs.

        One collective; two in two passes, where the first finds the mean of all.

        Args:
          parts: Moments of parts of x.
          reduction: The axes along which the parts lie, and other instances.
          shift: What to take them about, or the mean of what no part has an element of;
            aligned.
        """
        shift = lax.stop_gradient(usable_shift(shift.astype(parts.shift.dtype)))
        if self.use_fast_variance:
            return pool(parts.about(shift), reduction)
        return pool_about_mean(parts, reduction, shift)

    def standardize(self, moments: CenteredMoments) -> Array:
        """Normalizes x with its own moments, over `spec.reduction`."""
        return standardize(self.spec, self.x, moments, self.scale, self.bias, self.mask)

    def normalize(
        self, mean: Array, var: Array, *, epsilon: float | None = None
    ) -> Array:
        """Normalizes x with given statistics of the feature shape."""
        epsilon = self.spec.epsilon if epsilon is None else epsilon
        dtype = accumulation_dtype(self.spec.dtype, self.x.dtype)
        return normalize_with(
            self.align(mean),
            inverse_std(self.align(var), epsilon, dtype, None),
            self.x,
            self.scale,
            self.bias,
            usable(self.mask, self.x),
            self.spec.dtype,
        )

    def per_feature(self, moments: CenteredMoments) -> Moments:
        """Returns moments of x as public ones, of the feature shape."""
        return per_feature(moments, self.x.shape, self.features)

    def update(
        self,
        state: _Running,
        moments: Moments,
        *,
        weight: Array | None = None,
        updates: Array | None = None,
    ) -> _Running:
        """Moves running statistics towards the moments of the batch.

        Args:
          state: Running statistics, the same on all instances.
          moments: Moments of the batch, of the feature shape.
          weight: Weight of the old statistics; by default the momentum.
          updates: How many updates this one stands for; by default 1.
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


def check_options(options: BatchOptions) -> None:
    """Checks the names of options, of which Python only knows that there may be any.

    Raises:
      TypeError: If one is unknown, or none says whether this is training.
    """
    known = BatchOptions.__annotations__
    for name in options.keys() - known.keys():
        close = "".join(difflib.get_close_matches(name, known, 1, 0.4))
        raise TypeError(
            f"got an unexpected keyword argument {name!r}: options must be among "
            f"{', '.join(known)}." + (f" Did you mean {close}?" if close else "")
        )
    if "use_running_average" not in options:
        raise TypeError(
            "use_running_average must be given: False in training, True in inference."
        )


def exact_moments(x: Array, options: BatchOptions) -> Moments:
    """Returns the moments of what a call with these options normalizes.

    In two passes, so that they are exact whatever the running statistics are.

    Args:
      x: Input.
      options: Of the call; all those that say which elements belong together.
    """
    return batch_moments(
        x,
        feature_axes=options["feature_axes"],
        mask=options["mask"],
        axis_name=options["axis_name"],
        axis_index_groups=options["axis_index_groups"],
        use_fast_variance=False,
    )
