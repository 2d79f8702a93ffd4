"""Batch normalizers that keep and use the statistics that they have."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jax
from flax import linen as nn

from jaxnorm.linen.module import statistics_are_frozen
from jaxnorm.tools._apply import check_apply
from jaxnorm.tools.freezing import freeze_parameters

if TYPE_CHECKING:
    import optax
    from flax.linen.module import InterceptorContext

_P = ParamSpec("_P")
_R = TypeVar("_R")


def frozen_statistics(apply: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns `apply` in which batch normalizers use and keep their running statistics.

    As with `use_running_average=True` in each of them, whatever the model says, and
    nowhere else: dropout and whatever the model's own `train` flag switches stay as
    they are. Of `mutable=["batch_stats"]` their statistics come out as they came in.

    Args:
      apply: `model.apply`, or any function that calls Linen modules; compiled in no
        part, since what was traced before stays as it was.

    Returns:
      A function of the same arguments. It may be compiled, or called in what is.

    Raises:
      TypeError: If `apply` is not a function, or compiled; and when called, if there is
        a `flax.linen.BatchNorm`, which it does not reach.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.BatchNorm(use_running_average=False)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = jax.jit(norm.init)(jax.random.key(0), x)
      >>> apply = jaxnorm.linen.frozen_statistics(norm.apply)
      >>> y, updates = apply(variables, x, mutable=["batch_stats"])
      >>> y.round(2).ravel(), updates["batch_stats"]["mean"]
      (Array([1., 3.], dtype=float32), Array([0.], dtype=float32))
    """
    check_apply(
        *(apply, "apply", "model.apply"),
        of_nnx="call jaxnorm.nnx.freeze_statistics(model)",
    )
    if isinstance(apply, jax.stages.Wrapped):
        raise TypeError(
            "apply must not be compiled, since what was traced before stays as it was, "
            f"got {apply}. Compile what comes back: jax.jit(frozen_statistics(apply))."
        )

    def frozen(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        token = statistics_are_frozen.set(True)
        try:
            with nn.intercept_methods(_refuse_others):
                return apply(*args, **kwargs)
        finally:
            statistics_are_frozen.reset(token)

    return frozen


def freeze_batch_norms(
    apply: Callable[_P, _R],
    optimizer: "optax.GradientTransformation",
    variables: Mapping[str, Any],
) -> tuple[Callable[_P, _R], "optax.GradientTransformation"]:
    """Freezes statistics and parameters of a model's batch norms, for fine-tuning.

    Each alone is `frozen_statistics(apply)`, and
    `jaxnorm.tools.freeze_parameters(optimizer, variables)`.

    Args:
      apply: `model.apply`.
      optimizer: Any of optax.
      variables: The model's, with `params` and `batch_stats`.

    Returns:
      `apply` and `optimizer`, to be used in place of those given.

    Raises:
      TypeError, ValueError: As `frozen_statistics` and `freeze_parameters`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxnorm.linen, optax
      >>> norm = jaxnorm.linen.BatchNorm(use_running_average=False)
      >>> model = nn.Sequential([nn.Dense(3), norm])
      >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((4, 2)))
      >>> apply, optimizer = jaxnorm.linen.freeze_batch_norms(
      ...     model.apply, optax.adamw(1e-3), variables
      ... )
    """
    return frozen_statistics(apply), freeze_parameters(optimizer, variables)


def _refuse_others(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: "InterceptorContext",
) -> Any:
    if isinstance(context.module, nn.BatchNorm):
        raise TypeError(
            "frozen_statistics needs batch norms of jaxnorm.linen, got one of "
            f"flax.linen, {context.module.name}. Take jaxnorm.linen.BatchNorm, which "
            "has the same variables, or pass use_running_average=True to it yourself."
        )
    return call(*args, **kwargs)
