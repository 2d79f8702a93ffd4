"""The function with which a user runs a model: what is often wrong with it."""

import contextlib
from collections.abc import Callable, Iterator

_COLLECTING = "jaxnorm.nnx.collecting(model) returns a function to start from"


def check_apply(
    apply: object, name: str, example: str, of_nnx: str = _COLLECTING
) -> None:
    """Checks that what runs a model is a function, and not the model or its class.

    Args:
      apply: What the user passed.
      name: Of the argument.
      example: A function that is right, for the error message.
      of_nnx: What to use for a model of NNX, likewise.

    Raises:
      TypeError: If it is a module of Flax, a class, or cannot be called.
    """
    # Modules of Linen and of NNX have a method sow. Flax is not imported here.
    if isinstance(apply, type) or not callable(apply) or hasattr(type(apply), "sow"):
        given = apply if isinstance(apply, type) else type(apply)
        raise TypeError(
            f"{name} must be a function that runs the model, got {given.__name__}. "
            f"Pass {example}. Of an NNX model, {of_nnx}."
        )


@contextlib.contextmanager
def collecting_moments(apply: Callable[..., object]) -> Iterator[None]:
    """Says what to do where a layer writes other statistics than its moments.

    Raises:
      ValueError: In place of Flax's error that the collection "batch_stats" is
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
            f"{name} must collect the moments of each layer, and a layer moved its "
            'running statistics. Write model.apply(..., mutable=["batch_moments"]). '
            "If it is written so, the layer is Flax's own, which collects none: take "
            "jaxnorm.linen.BatchNorm, which has the same variables."
        ) from error
