"""Conversion of NNX models to the functions and variables that the tools take."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from jaxnorm.nnx.batch_module import BatchMoment
from jaxnorm.nnx.restoring import set_values
from jaxnorm.nnx.variables import check_model

Apply = Callable[[Mapping[str, Any], Any, bool], tuple[Any, dict[Any, Any]]]


def collecting(
    model: nnx.Module, call: Callable[[Any, Any], Any] | None = None
) -> tuple[Apply, dict[str, Any]]:
    """Returns a pure function that runs a model and collects moments, and variables.

    `jaxnorm.tools` takes both: pass the function to `diagnose`, and a function that
    returns only its second result to `recalibrate`. The model itself does not change.

    Args:
      model: The model, with batch normalizers of `jaxnorm.nnx`.
      call: A function of model and batch; by default `model(batch)`.

    Returns:
      `apply(variables, batch, train) -> (outputs, batch_moments)` (compile it with
      static `train`), and the variables, pure dicts under "params" and "batch_stats".

    Raises:
      TypeError: If the model is not an NNX module, or `call` is not a function.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx, jaxnorm.tools
      >>> from flax import nnx
      >>> model = jaxnorm.nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> apply, variables = jaxnorm.nnx.collecting(model)
      >>> batches = [jnp.array([[1.0], [3.0], [5.0]]), jnp.array([[8.0], [8.0]])]
      >>> stats = jaxnorm.tools.recalibrate(
      ...     lambda variables, x: apply(variables, x, True)[1], variables, batches
      ... )
      >>> jaxnorm.nnx.set_batch_stats(model, stats)
      >>> model.mean[...]
      Array([5.], dtype=float32)
    """
    check_model(model, 'call model.apply with mutable=["batch_moments"]')
    if not (call is None or callable(call)):
        raise TypeError(
            f"call must be a function of model and batch, got {type(call).__name__}. "
            "Pass lambda model, batch: ..., or omit it."
        )
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, rest = states

    def apply(
        variables: Mapping[str, Any], batch: Any, train: bool
    ) -> tuple[Any, dict[Any, Any]]:
        parts = [nnx.clone(params), nnx.clone(stats)]
        for part, name in zip(parts, ("params", "batch_stats"), strict=True):
            nnx.replace_by_pure_dict(part, dict(variables[name]))
        copy = nnx.merge(graphdef, *parts, rest, copy=True)
        (copy.train if train else copy.eval)()
        copy.set_attributes(collect_moments=True, raise_if_not_found=False)
        outputs = copy(batch) if call is None else call(copy, batch)
        moments = nnx.to_pure_dict(nnx.state(copy, BatchMoment))
        return outputs, _move_to_layers(moments)

    return apply, {
        "params": nnx.to_pure_dict(params),
        "batch_stats": nnx.to_pure_dict(stats),
    }


def set_batch_stats(model: nnx.Module, batch_stats: Mapping[str, Any]) -> None:
    """Replaces the running statistics of a model, in place.

    Args:
      model: The model.
      batch_stats: Statistics of all layers: a pure dict, as `jaxnorm.tools` returns it,
        or a state.

    Raises:
      TypeError: If `batch_stats` is not a dict, or `model` is not an NNX module.
      ValueError: If `batch_stats` lacks a statistic of the model, the model lacks one
        of `batch_stats`, or their shapes differ.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> model = jaxnorm.nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> jaxnorm.nnx.set_batch_stats(
      ...     model, {"mean": jnp.array([4.0]), "var": jnp.array([2.0])}
      ... )
      >>> model.var[...]
      Array([2.], dtype=float32)
    """
    set_values(model, batch_stats, nnx.BatchStat, "batch_stats", all_of_them=True)


def _move_to_layers(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """Moves moments from the attribute `batch_moments` to the path of the layer."""
    found: dict[Any, Any] = {}
    for name, node in tree.items():
        if name == "batch_moments":
            found |= node
        else:
            found[name] = _move_to_layers(node)
    return found
