"""The form between all checkpoints: the arrays of each normalizer, by our names."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from jax import dlpack
from jax import numpy as jnp

from jaxnorm.tools._trees import Path, unboxed

Layer = dict[str, np.ndarray]
"""One normalizer: scale, bias; mean, var or std, count. None of them is required."""

Variables = dict[str, Any]
"""A Linen variables tree of nested dicts: the collections params and batch_stats."""

COLLECTIONS = {
    "scale": "params",
    "bias": "params",
    "mean": "batch_stats",
    "var": "batch_stats",
    "std": "batch_stats",
    "count": "batch_stats",
}
"""Where Flax keeps each array."""

LINEN = '{"params": ..., "batch_stats": ...} of the model'
"""What a user passes as variables."""

_Option = TypeVar("_Option")


def as_array(value: object, name: str) -> np.ndarray:
    """Returns a copy as a NumPy array, of the same dtype, bit for bit.

    A copy, since a framework that updates its arrays in place would change ours. What
    is in a box of Flax comes out of it, and a parameter of PyTorch without its graph.

    Raises:
      TypeError: If it is not numeric.
    """
    value = unboxed(value)
    if hasattr(value, "detach"):  # NumPy takes no tensor that requires a gradient
        value = value.detach()
    try:
        array = np.array(np.asarray(value))
    except TypeError:
        if not hasattr(value, "__dlpack__"):
            raise
        # PyTorch does not give bfloat16 to NumPy
        array = np.array(dlpack.from_dlpack(value))
    if not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(f"{name} must be a numeric array, got {array.dtype}.")
    return array


def check_mapping(value: object, name: str, fix: str) -> None:
    """Checks that a checkpoint, or variables, are a dict and not a model.

    Raises:
      TypeError: If it is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be a dict of arrays, got {type(value).__name__}. Pass {fix}."
        )


def check_layer(layer: Layer, name: str) -> Layer:
    """Returns the layer, if its arrays can be those of one normalizer.

    Raises:
      TypeError: If scale, bias or a statistic is neither floating nor complex.
      ValueError: If it is empty, its shapes differ, the count is not a scalar, or a
        mean is without a variance or the reverse.
    """
    arrays = {key: value for key, value in layer.items() if key != "count"}
    if not arrays:
        raise ValueError(f"{name} has none of scale, bias, mean, var and std.")
    for key, value in arrays.items():
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            raise TypeError(f"{key} of {name} must be floating, got {value.dtype}.")
    shapes = {key: value.shape for key, value in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"The arrays of {name} must have one shape, that of its features, got "
            f"{shapes}. Is it a normalizer?"
        )
    statistics = layer.keys() & {"mean", "var", "std"}
    if statistics not in (set(), {"mean", "var"}, {"mean", "std"}):
        raise ValueError(
            f"A mean needs one of var and std, and they need it, but {name} has "
            f"{', '.join(sorted(arrays))}. Is a part of the checkpoint missing?"
        )
    if "count" in layer and layer["count"].size != 1:
        raise ValueError(
            f"count of {name} must be a scalar, got the shape {layer['count'].shape}."
        )
    return layer


def check_layers(layers: object, example: str) -> None:
    """Checks that the layers which a user named are a dict.

    Args:
      layers: What the user passed.
      example: Such a dict as code, for the error message.

    Raises:
      TypeError: If they are a list of names, for instance.
    """
    if not isinstance(layers, Mapping):
        raise TypeError(
            "layers must be a dict, which gives the path in the variables by the name "
            f"of each layer, got {type(layers).__name__}. Write {example}."
        )


def check_paths(paths: Mapping[str, Path], sought: str) -> dict[str, Path]:
    """Returns the path in the variables of each layer, by its name in a checkpoint.

    Args:
      paths: What the user said, or what was found.
      sought: What layers are found by, for the error message.

    Raises:
      TypeError: If they are not a dict, or a path is not a tuple of strings.
      ValueError: If there is none, or two layers have the same path.
    """
    check_layers(paths, "{'bn1': ('BatchNorm_0',)}")
    if not paths:
        raise ValueError(
            f"There is no batch norm (a layer with {sought}). Is this the "
            "whole tree? Layers without statistics must be named: "
            "layers={'norm': ('LayerNorm_0',)}."
        )
    owners: dict[Path, str] = {}
    for name, path in paths.items():
        if not isinstance(path, tuple) or not all(isinstance(x, str) for x in path):
            raise TypeError(
                f"The path of {name!r} must be a tuple of strings, got {path!r}. For "
                "one part write ('BatchNorm_0',), with the comma."
            )
        if path in owners:
            raise ValueError(
                f"{owners[path]!r} and {name!r} must have different paths, got {path} "
                "for both."
            )
        owners[path] = name
    return dict(paths)


def split(names: Iterable[str], separator: str) -> dict[str, Path]:
    """Returns the paths that names make where the user names none."""
    return {name: tuple(name.split(separator)) if name else () for name in names}


def for_each(
    option: _Option | Mapping[str, _Option], names: Iterable[str], what: str
) -> dict[str, _Option]:
    """Returns an option of each layer, given as one for all or by their names.

    Raises:
      ValueError: If it is given by names, and these are not those of the layers.
    """
    names = list(names)
    if not isinstance(option, Mapping):
        return dict.fromkeys(names, option)
    if set(option) != set(names):
        raise ValueError(
            f"{what} must be given for the layers {sorted(names)}, got "
            f"{sorted(option)}."
        )
    return dict(option)
