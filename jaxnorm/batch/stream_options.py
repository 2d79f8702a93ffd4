"""Converts the options of batch normalizers to the options of `running_norm`."""

from collections.abc import Sequence
from typing import TypedDict

from jax import Array
from jax.typing import DTypeLike

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.arguments.validation import check_flags
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.reductions.collectives import Groups

_DEFAULT_MOMENTUM = 0.99  # of the modules


class StreamOptions(TypedDict):
    """The keyword options of `running_norm` that batch normalizers have as well."""

    update: bool
    feature_axes: Axes
    epsilon: float
    mask: Array | None
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    skip_nonfinite: bool
    dtype: DTypeLike | None


def stream_options(options: BatchOptions) -> StreamOptions:
    """Converts the options of a batch normalizer to options of `running_norm`.

    Raises:
      TypeError: If a momentum is given, or `use_running_average` is not a bool.
      ValueError: If the variance is to be unbiased.
    """
    check_flags(use_running_average=options["use_running_average"])
    if options["momentum"] != _DEFAULT_MOMENTUM:
        raise TypeError(
            "momentum must not be given, since all elements of a stream have the same "
            f"weight, got {options['momentum']}. To forget old elements, pass "
            "max_count=."
        )
    if options["unbiased"]:
        raise ValueError(
            "unbiased must be False, since running_norm keeps the exact variance of "
            "all elements so far, not an estimate, got True. Omit it."
        )
    return {
        "update": not options["use_running_average"],
        "feature_axes": options["feature_axes"],
        "epsilon": options["epsilon"],
        "mask": options["mask"],
        "axis_name": options["axis_name"],
        "axis_index_groups": options["axis_index_groups"],
        "skip_nonfinite": options["skip_nonfinite"],
        "dtype": options["dtype"],
    }
