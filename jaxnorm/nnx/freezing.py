"""Freezing of batch normalizers for fine-tuning."""

from typing import TYPE_CHECKING

from flax import nnx

from jaxnorm.nnx.batch_module import BatchModule
from jaxnorm.nnx.variables import check_model
from jaxnorm.tools.freezing import freeze_parameters

if TYPE_CHECKING:
    import optax


def freeze_statistics(model: nnx.Module, *, frozen: bool = True) -> None:
    """Freezes the running statistics of a model's batch normalizers, in place.

    The batch normalizers then use their running statistics and do not update them, even
    if `train()`, `nnx.view` or a call later sets `use_running_average=False`. Nothing
    else changes, such as dropout.

    Args:
      model: The model. A compiled function uses the setting that the model has when it
        is passed in.
      frozen: Whether to freeze; False undoes it.

    Raises:
      TypeError: If `model` is not an NNX module, or contains a `flax.nnx.BatchNorm`,
        which cannot be frozen in this way.
      ValueError: If there is no batch normalizer.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> jaxnorm.nnx.freeze_statistics(norm)
      >>> norm.train()
      >>> y = norm(jnp.array([[1.0], [3.0]]))
      >>> y.round(2).ravel(), norm.mean[...]
      (Array([1., 3.], dtype=float32), Array([0.], dtype=float32))
    """
    check_model(model, "call jaxnorm.linen.frozen_statistics(model.apply)")
    found = []
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            raise TypeError(
                "freeze_statistics needs batch norms of jaxnorm.nnx, got one of "
                f"flax.nnx at {path}. Use jaxnorm.nnx.BatchNorm, which has the same "
                "variables, or pass use_running_average=True to it yourself."
            )
        if isinstance(module, BatchModule):
            found.append(module)
    if not found:
        raise ValueError(
            "model must have batch normalizers of jaxnorm.nnx to freeze, got none in "
            f"{type(model).__name__}. Per-example norms keep no running statistics."
        )
    for module in found:
        module.frozen_statistics = frozen


def freeze_batch_norms(
    model: nnx.Module, optimizer: "optax.GradientTransformation"
) -> "optax.GradientTransformation":
    """Freezes statistics and parameters of a model's batch norms, for fine-tuning.

    To freeze only statistics, use `freeze_statistics(model)`; to freeze only
    parameters, use `jaxnorm.tools.freeze_parameters`.

    Args:
      model: The model, whose statistics are frozen in place.
      optimizer: Any optax optimizer.

    Returns:
      The optimizer for `nnx.Optimizer(model, optimizer, wrt=nnx.Param)`.

    Raises:
      TypeError, ValueError: As `freeze_statistics` and `freeze_parameters`.

    Example:
      >>> import jaxnorm.nnx, optax
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> norm = jaxnorm.nnx.BatchNorm(3, rngs=rngs)
      >>> model = nnx.Sequential(nnx.Linear(2, 3, rngs=rngs), norm)
      >>> transform = jaxnorm.nnx.freeze_batch_norms(model, optax.adamw(1e-3))
      >>> optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    """
    freeze_statistics(model)
    return freeze_parameters(optimizer, nnx.state(model))
