"""Replacement of the normalizers of a model, which keeps variables."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flax import nnx

from jaxnorm._layers.replacements import check_replacements, make_replacement
from jaxnorm.nnx.variables import check_model

Model = TypeVar("Model", bound=nnx.Module)


def replace_norms(
    model: Model,
    replacements: Mapping[type[nnx.Module], Callable[[Any], nnx.Module]],
) -> Model:
    """Returns a model with other normalizers, which share variables with the old ones.

    For instance, replace batch norm by group norm, by ghost batch norm, or by batch
    norm with an `axis_name`, or Flax's normalizers by those of this library. A
    replacement shares each variable of the same name, type and shape with the module
    that it replaces: scale and bias, and statistics if both have them. Its mode is set
    by the function that creates it, so call `eval()` on the new model if the old model
    is in evaluation mode.

    Args:
      model: The model, whose structure does not change.
      replacements: A dict from the class of a normalizer to a function that takes the
        module and returns its replacement. The first class of which a module is an
        instance applies.

    Returns:
      The new model. It shares its variables with the old model, as with `nnx.view`,
      except variables that only replacements have.

    Raises:
      TypeError: If the model is not an NNX module, a replacement is not a function, or
        it does not return a module.
      ValueError: If the model has no normalizer of these classes.

    Example:
      >>> import jaxnorm.nnx
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> norm = nnx.BatchNorm(8, rngs=rngs)
      >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=rngs), norm)
      >>> new = jaxnorm.nnx.replace_norms(
      ...     model,
      ...     {
      ...         nnx.BatchNorm: lambda norm: jaxnorm.nnx.GroupNorm(
      ...             norm.num_features, num_groups=2, rngs=rngs
      ...         )
      ...     },
      ... )
      >>> type(new.layers[1]).__name__, new.layers[1].scale is norm.scale
      ('GroupNorm', True)
    """
    check_model(model, "call jaxnorm.linen.replace_norms")
    check_replacements(replacements, nnx.Module)
    found = []

    def replace(path: tuple[Any, ...], node: Any) -> Any:
        for cls, make in replacements.items():
            if isinstance(node, cls):
                new = make_replacement(make, node, nnx.Module)
                found.append(path)
                _take_variables(new, node)
                return new
        return node

    result: Model = nnx.recursive_map(replace, model)
    if not found:
        raise ValueError(
            f"model must have normalizers of {[c.__name__ for c in replacements]}, got "
            f"none in {type(model).__name__}. Check that the model uses these classes."
        )
    return result


def _take_variables(new: nnx.Module, old: nnx.Module) -> None:
    """Gives `new` the variables of `old` that have the same name, type and shape."""
    for name, variable in vars(new).items():
        given: Any = getattr(old, name, None)
        if not isinstance(variable, nnx.Variable) or type(given) is not type(variable):
            continue
        if given.get_value().shape == variable.get_value().shape:
            setattr(new, name, given)
