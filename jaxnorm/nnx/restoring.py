"""Restoring of variables from checkpoints into NNX models."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxnorm.nnx.variables import check_model
from jaxnorm.tools._trees import node_at, walk


def restore_pure_dict(model: nnx.Module, pure_dict: Mapping[Any, Any]) -> None:
    """Writes the values of a pure dict into the variables of a model, in place.

    It works like `nnx.replace_by_pure_dict` with `nnx.update`, but the keys of the dict
    may have become strings. `WeightNorm` and `SpectralNorm` keep scales and statistics
    under keys such as `("kernel",)`, as in Flax, and Orbax returns `"('kernel',)"`.

    Args:
      model: The model. Variables that the dict lacks do not change.
      pure_dict: A saved `nnx.to_pure_dict(nnx.state(model))`, or the state itself.

    Raises:
      TypeError: If `pure_dict` is not a dict, or `model` is not an NNX module.
      ValueError: If the model lacks a variable, or it has another shape.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> layer = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> model = jaxnorm.nnx.WeightNorm(layer, rngs=nnx.Rngs(0))
      >>> restored = {"scales": {"('kernel',)": jnp.array([3.0])}}
      >>> jaxnorm.nnx.restore_pure_dict(model, restored)
      >>> model.scales["kernel",][...]
      Array([3.], dtype=float32)
    """
    set_values(model, pure_dict, nnx.Variable, "pure_dict")


def set_values(
    model: nnx.Module,
    pure_dict: Mapping[Any, Any],
    kind: type[nnx.Variable[Any]],
    name: str,
    *,
    all_of_them: bool = False,
) -> None:
    """Writes a pure dict, whose keys may be strings, into variables of one type.

    Args:
      model: The model.
      pure_dict: The values.
      kind: The type of the variables.
      name: The name of the argument, for error messages.
      all_of_them: Whether every variable of this type must get a value.
    """
    check_model(model, "pass the dict to model.apply, which takes all variables")
    if not isinstance(pure_dict, Mapping):
        raise TypeError(
            f"{name} must be a dict, as nnx.to_pure_dict(nnx.state(model)) returns it, "
            f"got {type(pure_dict).__name__}. Save this dict in the checkpoint."
        )
    variables = dict(nnx.to_flat_state(nnx.state(model, kind)))
    paths = {tuple(map(str, path)): path for path in variables}
    for given in walk(pure_dict):
        value = node_at(pure_dict, given[:-1])[given[-1]]
        if isinstance(value, nnx.Variable):  # of an nnx.State
            value = value.get_value()
        path = paths.get(tuple(map(str, given)))
        if path is None:
            raise ValueError(
                f"The model must have a variable at {given} of {name}, got none. Its "
                f"variables are {list(variables)[:9]}. Check that {name} is of this "
                "model."
            )
        old = variables[path]
        if value.shape != old.get_value().shape:
            raise ValueError(
                f"{path} must have the shape {old.get_value().shape}, got "
                f"{value.shape}. Check that the checkpoint is of this model."
            )
        variables[path] = old.replace(value)
        del paths[tuple(map(str, given))]
    if all_of_them and paths:
        raise ValueError(
            f"{name} must contain every variable of type {kind.__name__} of the model, "
            f"got none for {[*paths.values()][:9]}. Pass the values of all layers."
        )
    nnx.update(model, nnx.from_flat_state(variables.items()))
