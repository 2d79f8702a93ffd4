"""Batch normalizers that keep and use the statistics that they have."""

from typing import TYPE_CHECKING

from flax import nnx

from jaxnorm.nnx.batch_module import BatchModule
from jaxnorm.nnx.variables import check_model
from jaxnorm.tools.freezing import freeze_parameters

if TYPE_CHECKING:
    import optax


def freeze_statistics(model: nnx.Module, *, frozen: bool = True) -> None:
    """Makes the batch normalizers of a model use and keep their running statistics.

    In place, and whatever `train()`, `nnx.view` and calls say of `use_running_average`
    later; dropout and all else stay as they are.

    Args:
      model: The model. In a compiled function it has what it had when it came in.
      frozen: False: they are as before again.

    Raises:
      TypeError: If `model` is not an NNX module, or has a `flax.nnx.BatchNorm`, which
        it does not reach.
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
    check_model(model, "it is jaxnorm.linen.frozen_statistics(model.apply)")
    found = []
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            raise TypeError(
                "freeze_statistics needs batch norms of jaxnorm.nnx, got one of "
                f"flax.nnx at {path}. Take jaxnorm.nnx.BatchNorm, which has the same "
                "variables, or pass use_running_average=True to it yourself."
            )
        if isinstance(module, BatchModule):
            found.append(module)
    if not found:
        raise ValueError(
            "model must have batch normalizers of jaxnorm.nnx to freeze, and has none "
            f"({type(model).__name__})."
        )
    for module in found:
        module.frozen_statistics = frozen


def freeze_batch_norms(
    model: nnx.Module, optimizer: "optax.GradientTransformation"
) -> "optax.GradientTransformation":
    """Freezes statistics and parameters of a model's batch norms, for fine-tuning.

    Each alone is `freeze_statistics(model)`, and `jaxnorm.tools.freeze_parameters`.

    Args:
      model: The model, whose statistics are frozen in place.
      optimizer: Any of optax.

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
