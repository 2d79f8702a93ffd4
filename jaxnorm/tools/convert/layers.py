"""The common form of all checkpoints: the arrays of each normalizer, by our names."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from jax import dlpack
from jax import numpy as jnp

from jaxnorm.tools._trees import Path, is_node, unboxed

Layer = dict[str, np.ndarray]
"""The arrays of one normalizer: any of scale, bias, mean, var, std and count."""

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
"""The Flax collection of each array."""

LINEN = '{"params": ..., "batch_stats": ...} of the model'
"""The variables to pass, for error messages."""

_Option = TypeVar("_Option")


def as_array(value: object, name: str) -> np.ndarray:
    """Copies an array to NumPy, with the same dtype, bit for bit.

    The copy protects against frameworks that update their arrays in place. Flax boxes
    are removed, and PyTorch parameters are detached from their graph.

    Raises:
      TypeError: If the value is not numeric, or is a tensor without plain values that
        the CPU can read.
    """
    value = unboxed(value)
    array = _from_tensor(value, name) if hasattr(value, "detach") else _copy(value)
    if not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(
            f"{name} must be a numeric array, got {array.dtype}. Pass the array of a "
            "checkpoint."
        )
    return array


def _from_tensor(tensor: Any, name: str) -> np.ndarray:
    """Copies a PyTorch tensor to NumPy."""
    tensor = tensor.detach()  # NumPy does not accept tensors that require gradients
    if hasattr(tensor, "resolve_conj"):  # nor a conjugate that is not computed yet
        tensor = tensor.resolve_conj()
    try:
        return _copy(tensor)
    except Exception as error:
        raise TypeError(
            f"{name} must be a dense tensor on the CPU, got one that cannot be read: "
            f"{error}. Load the checkpoint with torch.load(..., map_location='cpu'), "
            "or pass tensor.cpu(), tensor.to_dense() or tensor.dequantize()."
        ) from error


def _copy(value: Any) -> np.ndarray:
    """Copies an array to NumPy."""
    try:
        return np.array(np.asarray(value))
    except TypeError:
        if not hasattr(value, "__dlpack__"):
            raise
        # PyTorch does not convert bfloat16 to NumPy, and JAX does not read any strides.
        value = value.contiguous() if hasattr(value, "contiguous") else value
        return np.array(dlpack.from_dlpack(value))


def check_mapping(value: object, name: str, fix: str) -> None:
    """Checks that a checkpoint or variables are a dict, not for instance a model.

    Raises:
      TypeError: If the value is not a dict.
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be a dict of arrays, got {type(value).__name__}. Pass {fix}."
        )


def check_flat(
    arrays: Mapping[str, object], layers: Iterable[str], name: str, separator: str
) -> None:
    """Checks that a checkpoint is not a dict of dicts, in which there is no layer.

    Args:
      arrays: The checkpoint.
      layers: The names of the layers in it.
      name: The name of the argument, for the error message.
      separator: The separator between the parts of a key.

    Raises:
      ValueError: If it holds dicts, and no array of any of the layers.
    """
    inner = [key for key, value in arrays.items() if is_node(value)]
    if inner and not any(
        key.startswith(f"{layer}{separator}") or not layer
        for key in arrays
        for layer in layers
    ):
        raise ValueError(
            f"{name} must hold arrays by their names, got dicts at {inner}. Pass one "
            f"of these dicts: [{inner[0]!r}]."
        )


def check_layer(layer: Layer, name: str) -> Layer:
    """Returns the layer, if its arrays are valid for a normalizer.

    Raises:
      TypeError: If scale, bias or a statistic is neither floating nor complex.
      ValueError: If the layer is empty, its shapes differ, the count is not a scalar,
        or it has only one of mean and variance.
    """
    arrays = {key: value for key, value in layer.items() if key != "count"}
    if not arrays:
        raise ValueError(
            f"{name} must have at least one of scale, bias, mean, var and std, got "
            "none. Pass only normalizers in layers."
        )
    for key, value in arrays.items():
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            raise TypeError(
                f"{key} of {name} must be floating, got {value.dtype}. Check that it "
                "is a normalizer."
            )
    shapes = {key: value.shape for key, value in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"The arrays of {name} must all have the shape of its features, got "
            f"{shapes}. Check that it is a normalizer."
        )
    statistics = layer.keys() & {"mean", "var", "std"}
    if statistics not in (set(), {"mean", "var"}, {"mean", "std"}):
        raise ValueError(
            f"{name} must have a mean together with var or std, or none of them, got "
            f"{', '.join(sorted(arrays))}. Check that the checkpoint is complete."
        )
    if "count" in layer and layer["count"].size != 1:
        raise ValueError(
            f"count of {name} must be a scalar, got shape {layer['count'].shape}. "
            "Convert recurrent layers, which count per time step, yourself."
        )
    return layer


def check_layers(layers: object, example: str) -> None:
    """Checks that the argument `layers` is a dict.

    Args:
      layers: The argument that the user passed.
      example: A valid dict as code, for the error message.

    Raises:
      TypeError: If it is not a dict, but for instance a list of names.
    """
    if not isinstance(layers, Mapping):
        raise TypeError(
            "layers must be a dict from the name of each layer to its path in the "
            f"variables, got {type(layers).__name__}. Write {example}."
        )


def check_paths(paths: Mapping[str, Path], sought: str) -> dict[str, Path]:
    """Returns a dict from the name of each layer to its path, after checking both.

    Args:
      paths: The paths that the user passed, or that were found.
      sought: The name of the array that identifies a layer, for the error message.

    Raises:
      TypeError: If `paths` is not a dict, or a path is not a tuple of strings.
      ValueError: If `paths` is empty, or two layers have the same path.
    """
    check_layers(paths, "{'bn1': ('BatchNorm_0',)}")
    if not paths:
        raise ValueError(
            f"There must be a batch norm (a layer with {sought}), found none. Pass the "
            "whole tree. Layers without statistics must be listed: "
            "layers={'norm': ('LayerNorm_0',)}."
        )
    owners: dict[Path, str] = {}
    for name, path in paths.items():
        if not isinstance(path, tuple) or not all(isinstance(x, str) for x in path):
            raise TypeError(
                f"The path of {name!r} must be a tuple of strings, got {path!r}. A "
                "path with one name needs a comma: ('BatchNorm_0',)."
            )
        if path in owners:
            raise ValueError(
                f"{owners[path]!r} and {name!r} must have different paths, got {path} "
                "for both. Change one of them in layers."
            )
        owners[path] = name
    return dict(paths)


def split(names: Iterable[str], separator: str) -> dict[str, Path]:
    """Returns default paths: each name, split at the separator."""
    return {name: tuple(name.split(separator)) if name else () for name in names}


def for_each(
    option: _Option | Mapping[str, _Option], names: Iterable[str], what: str
) -> dict[str, _Option]:
    """Returns a dict from the name of each layer to its value of an option.

    Args:
      option: One value for all layers, or a dict from the name of each layer.
      names: The names of the layers.
      what: The name of the option, for the error message.

    Raises:
      ValueError: If a dict has other keys than the names of the layers.
    """
    names = list(names)
    if not isinstance(option, Mapping):
        return dict.fromkeys(names, option)
    if set(option) != set(names):
        raise ValueError(
            f"{what} must be one value, or a dict with the keys {sorted(names)}, got "
            f"the keys {sorted(option)}."
        )
    return dict(option)
