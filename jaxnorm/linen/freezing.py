"""Freezing of batch normalizers for fine-tuning."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jax
from flax import linen as nn

from jaxnorm.linen.module import statistics_are_frozen
from jaxnorm.linen.replacing import is_replaced
from jaxnorm.tools._apply import check_apply
from jaxnorm.tools.freezing import freeze_parameters

if TYPE_CHECKING:
    import optax
    from flax.linen.module import InterceptorContext

_P = ParamSpec("_P")
_R = TypeVar("_R")


def frozen_statistics(apply: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns an `apply` whose batch normalizers do not update running statistics.

    It sets `use_running_average=True` in each batch normalizer, whatever the model
    passes. Nothing else changes, such as dropout or other uses of the model's `train`
    flag. With `mutable=["batch_stats"]`, the statistics are returned unchanged.

    Args:
      apply: `model.apply`, or any function that calls Linen modules. No part of it may
        be compiled, because a part that was traced before would not change.

    Returns:
      A function of the same arguments. It may be compiled, or called in compiled code.

    Raises:
      TypeError: If `apply` is not a function, or is compiled. The returned function
        raises it for a `flax.linen.BatchNorm`, which cannot be frozen in this way;
        replace it first: `replaced(model.apply, replacements)`.

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
            "apply must not be compiled, because code that was traced before would not "
            f"change, got {apply}. Compile the result instead: "
            "jax.jit(frozen_statistics(apply))."
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

    To freeze only statistics, use `frozen_statistics(apply)`; to freeze only
    parameters, use `jaxnorm.tools.freeze_parameters(optimizer, variables)`.

    Args:
      apply: `model.apply`.
      optimizer: Any optax optimizer.
      variables: The variables of the model, with `params` and `batch_stats`.

    Returns:
      The `apply` and `optimizer` to use instead.

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
    """Intercepts a method of a module; raises TypeError for a Flax batch norm."""
    if isinstance(context.module, nn.BatchNorm) and not is_replaced(context.module):
        raise TypeError(
            "frozen_statistics needs batch norms of jaxnorm.linen, got one of "
            f"flax.linen, {context.module.name}. Use jaxnorm.linen.BatchNorm, which "
            "has the same variables, or pass use_running_average=True to it yourself."
        )
    return call(*args, **kwargs)
