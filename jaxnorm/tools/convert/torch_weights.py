"""Conversion of layers with weight or spectral norm between PyTorch and Flax."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnorm.tools._trees import Path, insert, node_at, walk
from jaxnorm.tools.convert.layers import (
    LINEN,
    Variables,
    as_array,
    check_flat,
    check_layers,
    check_mapping,
)

Pair = tuple[Path, Path]
"""The paths of a wrapper and of its layer in the variables."""

# The names of the arrays in torch.nn.utils.parametrizations, and in the older functions
# of torch.nn.utils.
_WEIGHT_NORM = (
    {
        "g": "parametrizations.weight.original0",
        "v": "parametrizations.weight.original1",
    },
    {"g": "weight_g", "v": "weight_v"},
)
_SPECTRAL_NORM = (
    {
        "w": "parametrizations.weight.original",
        "u": "parametrizations.weight.0._u",
        "v": "parametrizations.weight.0._v",
    },
    {"w": "weight_orig", "u": "weight_u", "v": "weight_v"},
)
_EXAMPLE = "{'fc': (('WeightNorm_0',), ('Dense_0',))}"
_FOUND_BY = re.compile(
    r"(?:(?P<name>.+)\.)?(?:parametrizations\.weight\.original1?|weight_g|weight_orig)"
)


def weights_from_torch(
    state_dict: Mapping[str, object], layers: Mapping[str, Pair] | None = None
) -> Variables:
    """Returns layers with weight or spectral norm as a Linen variables tree.

    It converts linear layers and convolutions, except transposed ones, that use
    `torch.nn.utils.parametrizations.weight_norm` or `spectral_norm`, or the older
    functions in `torch.nn.utils`. The result is for `WeightNorm` and `SpectralNorm`,
    with kernels (..., in, out); PyTorch's `dim=None` needs `feature_axes=None`. The
    right singular vector is used to compute `sigma`, and then dropped. `SpectralNorm`
    iterates in each call, also in inference; PyTorch does only in training. So both
    have the same output once the power iteration has converged.

    Args:
      state_dict: The `state_dict` of a whole model or of one layer: tensors on the CPU,
        or NumPy or JAX arrays. Entries of other layers are ignored.
      layers: A dict from the name of each layer to the paths of its wrapper and of
        itself in the variables: `{"conv": (("WeightNorm_0",), ("Conv_0",))}`. None
        converts all layers with weight or spectral norm; the name, split at dots, is
        the path of the wrapper, and the layer is its child `layer_instance`.

    Returns:
      Nested dicts of NumPy arrays: `{"params": ..., "batch_stats": ...}`.

    Raises:
      TypeError: If an array is not numeric, a tensor is not a dense one on the CPU, or
        a layer does not have two paths.
      ValueError: If no layer is found, a listed layer has neither weight nor spectral
        norm, or its weight norm is along another axis than the outputs.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jaxnorm.linen, jaxnorm.tools
      >>> from flax import linen as nn
      >>> state_dict = {
      ...     "fc.bias": np.zeros(1, np.float32),
      ...     "fc.parametrizations.weight.original0": np.float32([[10]]),
      ...     "fc.parametrizations.weight.original1": np.float32([[3, 4]]),
      ... }
      >>> variables = jaxnorm.tools.weights_from_torch(
      ...     state_dict, {"fc": ((), ("layer_instance",))}
      ... )
      >>> jaxnorm.linen.WeightNorm(nn.Dense(1)).apply(variables, jnp.eye(2))
      Array([[6.],
             [8.]], dtype=float32)
    """
    check_mapping(state_dict, "state_dict", "net.state_dict()")
    if layers is None:
        matches = (_FOUND_BY.fullmatch(key) for key in state_dict)
        names = dict.fromkeys(match["name"] or "" for match in matches if match)
        layers = {name: _default_paths(name) for name in names}
    _check_pairs(layers)
    check_flat(state_dict, layers, "state_dict", ".")
    if not layers:
        raise ValueError(
            "There must be a layer with weight or spectral norm, found none. Take the "
            "state_dict before the parametrizations are removed from the model."
        )
    variables: Variables = {"params": {}, "batch_stats": {}}
    for name, (wrapper, layer) in layers.items():
        if wrapper == layer:
            raise ValueError(
                f"The wrapper of {name!r} and its layer must have different paths, got "
                f"{wrapper} twice. For example, write layers={_EXAMPLE}."
            )
        _insert_layer(variables, name, wrapper, layer, state_dict)
    return variables


def weights_to_torch(
    variables: Mapping[str, Any],
    layers: Mapping[str, Pair] | None = None,
    *,
    parametrized: bool = True,
) -> dict[str, np.ndarray]:
    """Returns layers with weight or spectral norm as entries of a `state_dict`.

    This is the inverse of `weights_from_torch`. The right singular vector is scaled so
    that PyTorch divides by `sigma`; its length is 1 once the power iteration has
    converged.

    Args:
      variables: The collections params and batch_stats; other layers are ignored.
      layers: As in `weights_from_torch`. None converts all wrappers of a child
        `layer_instance`, and names them by their paths, joined with dots.
      parametrized: Whether the result is for `torch.nn.utils.parametrizations`. False
        is for the older `torch.nn.utils.weight_norm` and `spectral_norm`.

    Raises:
      TypeError: If a layer does not have two paths.
      ValueError: If no layer is found, or a listed layer is missing.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> variables = {
      ...     "params": {
      ...         "WeightNorm_0": {"Dense_0/kernel/scale": np.ones(1)},
      ...         "Dense_0": {"kernel": np.array([[3.0], [4.0]])},
      ...     }
      ... }
      >>> layers = {"fc": (("WeightNorm_0",), ("Dense_0",))}
      >>> jaxnorm.tools.weights_to_torch(variables, layers, parametrized=False)
      {'fc.weight_g': array([[1.]]), 'fc.weight_v': array([[3., 4.]])}
    """
    check_mapping(variables, "variables", LINEN)
    if layers is None:
        marks = ("layer_instance/kernel/scale", "layer_instance/kernel/u")
        found = [
            path[:-1]
            for collection in ("params", "batch_stats")
            for path in walk(variables.get(collection, {}))
            if path[-1] in marks
        ]
        layers = {
            ".".join(map(str, path)): (path, (*path, "layer_instance"))
            for path in found
        }
    _check_pairs(layers)
    if not layers:
        raise ValueError(
            "There must be a layer with weight or spectral norm, found none. Pass the "
            f"paths of wrapper and layer: layers={_EXAMPLE}."
        )
    result = {}
    for name, (wrapper, layer) in layers.items():
        for key, value in _layer_to_torch(
            variables, name, wrapper, layer, 0 if parametrized else 1
        ).items():
            result[f"{name}.{key}" if name else key] = np.asarray(value, order="C")
    return result


def is_reparametrized(state_dict: Mapping[str, object], name: str) -> bool:
    """Returns whether a layer of a `state_dict` has weight or spectral norm."""
    matches = (_FOUND_BY.fullmatch(key) for key in state_dict)
    return any(match and (match["name"] or "") == name for match in matches)


def _check_pairs(layers: object) -> None:
    """Checks that each layer has two paths, of its wrapper and of the layer."""
    check_layers(layers, _EXAMPLE)
    assert isinstance(layers, Mapping)
    for name, pair in layers.items():
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(path, tuple) for path in pair):
            raise TypeError(
                f"layers must have two paths for {name!r}, each a tuple, of the "
                f"wrapper and of the layer, got {pair!r}. Write {_EXAMPLE}."
            )


def _default_paths(name: str) -> Pair:
    """Returns the paths of a wrapper and of its layer, from the name in PyTorch."""
    wrapper = tuple(name.split(".")) if name else ()
    return wrapper, (*wrapper, "layer_instance")


def _insert_layer(
    variables: Variables,
    name: str,
    wrapper: Path,
    layer: Path,
    state_dict: Mapping[str, object],
) -> None:
    """Adds one layer of a `state_dict`, and its wrapper, to the variables."""

    def read(leaf: str) -> np.ndarray | None:
        key = f"{name}.{leaf}" if name else leaf
        return as_array(state_dict[key], key) if key in state_dict else None

    for names in (*_WEIGHT_NORM, *_SPECTRAL_NORM):
        arrays = {kind: read(leaf) for kind, leaf in names.items()}
        found = {kind: a for kind, a in arrays.items() if a is not None}
        if len(found) == len(names):
            break
    else:
        raise ValueError(
            f"{name!r} must have {list(_WEIGHT_NORM[0].values())}, "
            f"{list(_SPECTRAL_NORM[0].values())} or their older names, but lacks some "
            "of each. Check that it is the name of the layer in the state_dict."
        )
    of_kernel = f"{layer[-1]}/kernel"
    if "g" in found:
        g, weight = found["g"], found["v"]
        if g.shape not in ((), (len(weight), *(1,) * (weight.ndim - 1))):
            raise ValueError(
                f"The weight norm of {name!r} must have dim=0, a norm for each output, "
                f"or dim=None, got norms of shape {g.shape} for a weight of shape "
                f"{weight.shape}. Convert the plain weight of the layer instead."
            )
        scale = g.reshape(-1) if g.ndim else g
        insert(variables, ("params", *wrapper, f"{of_kernel}/scale"), scale)
    else:
        weight, u = found["w"], found["u"]
        wide = weight.reshape(len(weight), -1).astype(np.float64)
        sigma = np.asarray(u @ wide @ found["v"], np.float32)
        insert(variables, ("batch_stats", *wrapper, f"{of_kernel}/u"), u[None])
        insert(variables, ("batch_stats", *wrapper, f"{of_kernel}/sigma"), sigma)
    kernel = np.moveaxis(weight, (1, 0), (-2, -1))
    insert(variables, ("params", *layer, "kernel"), np.ascontiguousarray(kernel))
    if (bias := read("bias")) is not None:
        insert(variables, ("params", *layer, "bias"), bias)


def _layer_to_torch(
    variables: Mapping[str, Any], name: str, wrapper: Path, layer: Path, style: int
) -> dict[str, np.ndarray]:
    """Returns one layer by PyTorch's names; style 0 is parametrized, 1 is older."""
    own = node_at(variables, ("params", *layer))
    scales = node_at(variables, ("params", *wrapper))
    stats = node_at(variables, ("batch_stats", *wrapper))
    of_kernel = f"{layer[-1]}/kernel"
    given = {f"{of_kernel}/scale": scales, f"{of_kernel}/u": stats}
    kind = next((key for key, node in given.items() if key in node), None)
    if kind is None or "kernel" not in own:
        raise ValueError(
            f"{name!r} must have a kernel at {layer} and {' or '.join(given)} at "
            f"{wrapper}, got {sorted(own)} and {sorted({*scales, *stats})}. Check the "
            "paths in layers."
        )
    kernel = as_array(own["kernel"], f"kernel of {layer}")
    weight = np.moveaxis(kernel, (-2, -1), (1, 0))
    value = as_array(given[kind][kind], kind)
    result = {"bias": as_array(own["bias"], "bias")} if "bias" in own else {}
    if kind.endswith("scale"):
        names = _WEIGHT_NORM[style]
        g = value.reshape(-1, *(1,) * (weight.ndim - 1)) if value.ndim else value
        return result | {names["g"]: g, names["v"]: weight}
    names = _SPECTRAL_NORM[style]
    u = value[0]
    right = u @ weight.reshape(len(weight), -1).astype(np.float64)
    square = right @ right  # sigma^2 once the iteration has converged
    if square:  # PyTorch divides by u W v, which must be sigma
        sigma = stats.get(f"{of_kernel}/sigma", np.sqrt(square))
        right = right * (np.asarray(sigma, np.float64) / square)
    arrays = {"w": weight, "u": u, "v": right.astype(u.dtype)}
    return result | {names[kind]: value for kind, value in arrays.items()}
