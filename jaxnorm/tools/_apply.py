"""Checks of the function with which a user runs a model."""

import contextlib
from collections.abc import Callable, Iterator

_COLLECTING = "jaxnorm.nnx.collecting(model) returns a function to start from"


def check_apply(
    apply: object, name: str, example: str, of_nnx: str = _COLLECTING
) -> None:
    """Checks that `apply` is a function, not a model or the class of a model.

    Args:
      apply: The argument that the user passed.
      name: Name of the argument.
      example: Description of a valid function, for the error message.
      of_nnx: Hint for NNX models, for the error message.

    Raises:
      TypeError: If `apply` is a Flax module, a class, or not callable.
    """
    # Linen and NNX modules have a method `sow`. This package does not import Flax.
    if isinstance(apply, type) or not callable(apply) or hasattr(type(apply), "sow"):
        given = apply if isinstance(apply, type) else type(apply)
        raise TypeError(
            f"{name} must be a function that runs the model, got {given.__name__}. "
            f"Pass {example}. For an NNX model, {of_nnx}."
        )


@contextlib.contextmanager
def collecting_moments(apply: Callable[..., object]) -> Iterator[None]:
    """Explains Flax's error if a layer updates its running statistics in the body.

    Raises:
      ValueError: Instead of Flax's error that the collection "batch_stats" is
        immutable.
    """
    try:
        yield
    except Exception as error:
        is_flax = type(error).__name__ == "ModifyScopeVariableError"
        if not is_flax or '"batch_stats" is immutable' not in str(error):
            raise
        name = getattr(apply, "__name__", type(apply).__name__)
        raise ValueError(
            f"{name} must collect the moments of each layer, but a layer updated its "
            'running statistics. Write model.apply(..., mutable=["batch_moments"]). '
            "If apply does this already, the layer is Flax's, which collects no "
            "moments: use jaxnorm.linen.BatchNorm, which has the same variables."
        ) from error
