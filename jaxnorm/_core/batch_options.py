"""The keyword options that all batch normalizers take."""

import difflib
from collections.abc import Sequence
from typing import Any, Required, TypedDict

from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.running.momentum import Schedule


class BatchOptions(TypedDict, total=False):
    """The keyword options of all batch normalizers; `jaxnorm.batch_norm` says more.

    Attributes:
      use_running_average: False in training, True in inference.
      momentum: Weight of the old statistics, in [0, 1]; default 0.99.
      epsilon: Added to the variance; default 1e-5.
      feature_axes: The axes that keep their own statistics; default the last.
      mask: Selects valid elements, or gives weights; default all elements.
      axis_name: Mapped axes over which statistics are shared; default none.
      axis_index_groups: Groups of indices of the one axis; default one group.
      use_fast_variance: Whether moments take one pass over x (default) or two.
      unbiased: Whether running variances take the factor n / (n - 1); default False.
      skip_nonfinite: Whether to keep the old state if the new one is not finite;
        default False.
      dtype: Dtype of y; default what x, scale and bias promote to.
    """

    use_running_average: Required[bool]
    momentum: ArrayLike | Schedule
    epsilon: float
    feature_axes: Axes
    mask: Array | None
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    use_fast_variance: bool
    unbiased: bool
    skip_nonfinite: bool
    dtype: DTypeLike | None


DEFAULTS: dict[str, Any] = {
    "momentum": 0.99,
    "epsilon": 1e-5,
    "feature_axes": -1,
    "mask": None,
    "axis_name": None,
    "axis_index_groups": None,
    "use_fast_variance": True,
    "unbiased": False,
    "skip_nonfinite": False,
    "dtype": None,
}


def check_options(options: BatchOptions) -> None:
    """Checks the names of keyword options, which Python itself does not check.

    Raises:
      TypeError: If one is unknown, or `use_running_average` is missing.
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
