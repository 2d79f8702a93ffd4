"""Models whose normalizers are replaced by others, with their variables."""

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
    """Returns a model with other normalizers, which take over variables.

    Batch norm by group norm, by ghost batch norm, or by one with an `axis_name`;
    Flax's by those of this library. A replacement has the variables of the module that
    it replaces where both have one of the same name, kind and shape: scale and bias,
    and statistics where both have them. It is in the mode that its function gives it:
    call `eval()` of the new model, too, where the old one is in evaluation.

    Args:
      model: The model, whose structure stays as it is.
      replacements: Functions of the module that they replace, by its class. The first
        class that it is an instance of counts.

    Returns:
      The new model; its variables, but for those that only replacements have, are those
      of the old one, shared as by `nnx.view`.

    Raises:
      TypeError: If the model is not an NNX module, a replacement is not a function, or
        one returns no module.
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
    check_model(model, "it is jaxnorm.linen.replace_norms")
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
            f"model must have normalizers of {[c.__name__ for c in replacements]}, and "
            f"has none ({type(model).__name__}). Are these the classes it is made of?"
        )
    return result


def _take_variables(new: nnx.Module, old: nnx.Module) -> None:
    """Sets variables of `new` to those of `old`, where both have them."""
    for name, variable in vars(new).items():
        given: Any = getattr(old, name, None)
        if not isinstance(variable, nnx.Variable) or type(given) is not type(variable):
            continue
        if given.get_value().shape == variable.get_value().shape:
            setattr(new, name, given)
