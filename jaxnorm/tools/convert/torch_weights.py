"""PyTorch: layers with weight or spectral norm to Flax variables and back."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnorm.tools._trees import Path, insert, node_at, walk
from jaxnorm.tools.convert.layers import (
    LINEN,
    Variables,
    as_array,
    check_layers,
    check_mapping,
)

Pair = tuple[Path, Path]
"""The path of a wrapper in the variables, and that of its layer."""

# What each array is, by its name in torch.nn.utils.parametrizations and in the older
# torch.nn.utils.
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

    Those of `torch.nn.utils.parametrizations.weight_norm` and `spectral_norm`, and of
    the older functions in `torch.nn.utils`, around linear layers and convolutions that
    are not transposed, become those of `WeightNorm` and `SpectralNorm`, with kernels
    (..., in, out); for `feature_axes=None` where PyTorch has `dim=None`. The right
    singular vector is not needed; `sigma` is computed of both.

    Args:
      state_dict: Of a whole model or of one layer: tensors on the CPU, NumPy or JAX
        arrays. All but the layers is ignored.
      layers: The paths of wrapper and layer in the variables, by the name of the layer:
        `{"conv": (("WeightNorm_0",), ("Conv_0",))}`. None: all that are found, the
        wrapper at the path that dots make of the name, the layer, `layer_instance`,
        within.

    Returns:
      Nested dicts of NumPy arrays: `{"params": ..., "batch_stats": ...}`.

    Raises:
      TypeError: If an array is not numeric.
      ValueError: If no layer is found, one that is named has neither, or its weight
        norm is along another axis than that of the outputs.

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
    check_layers(layers, _EXAMPLE)
    if not layers:
        raise ValueError(
            "There must be a layer with weight or spectral norm, found none. Is this "
            "the state_dict of the model before its parametrizations were removed?"
        )
    variables: Variables = {"params": {}, "batch_stats": {}}
    for name, (wrapper, layer) in layers.items():
        if wrapper == layer:
            raise ValueError(
                f"The wrapper of {name!r} and its layer must have two paths, got "
                f"{wrapper} twice."
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

    The way back of `weights_from_torch`. The right singular vector has the length with
    which PyTorch divides by `sigma`: 1, once the power iteration has converged.

    Args:
      variables: The collections params and batch_stats, of which all but the layers is
        ignored.
      layers: As there. None: all that are found, named by the paths of their wrappers
        joined with dots; their layers `layer_instance` within them.
      parametrized: Whether for `torch.nn.utils.parametrizations`; False: for the older
        `torch.nn.utils.weight_norm` and `spectral_norm`.

    Raises:
      ValueError: If no layer is found, or one that is named is not there.

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
    check_layers(layers, _EXAMPLE)
    if not layers:
        raise ValueError(
            "There must be a layer with weight or spectral norm, found none. Name the "
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
    """Returns whether a layer has weight or spectral norm."""
    matches = (_FOUND_BY.fullmatch(key) for key in state_dict)
    return any(match and (match["name"] or "") == name for match in matches)


def _default_paths(name: str) -> Pair:
    """Returns the paths of a wrapper and of its layer, by PyTorch's name."""
    wrapper = tuple(name.split(".")) if name else ()
    return wrapper, (*wrapper, "layer_instance")


def _insert_layer(
    variables: Variables,
    name: str,
    wrapper: Path,
    layer: Path,
    state_dict: Mapping[str, object],
) -> None:
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
            f"{list(_SPECTRAL_NORM[0].values())} or their older names, and lacks some "
            "of each. Is it the name of the layer in the state_dict?"
        )
    of_kernel = f"{layer[-1]}/kernel"
    if "g" in found:
        g, weight = found["g"], found["v"]
        if g.shape not in ((), (len(weight), *(1,) * (weight.ndim - 1))):
            raise ValueError(
                f"The weight norm of {name!r} must have dim=0, a norm for each output, "
                f"or dim=None, got norms of shape {g.shape} for a weight of shape "
                f"{weight.shape}. Convert the layer's plain weight instead."
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
    own = node_at(variables, ("params", *layer))
    scales = node_at(variables, ("params", *wrapper))
    stats = node_at(variables, ("batch_stats", *wrapper))
    of_kernel = f"{layer[-1]}/kernel"
    given = {f"{of_kernel}/scale": scales, f"{of_kernel}/u": stats}
    kind = next((key for key, node in given.items() if key in node), None)
    if kind is None or "kernel" not in own:
        raise ValueError(
            f"{name!r} must have a kernel at {layer} and {' or '.join(given)} at "
            f"{wrapper}, got {sorted(own)} and {sorted({*scales, *stats})}. Do layers "
            "name the right paths?"
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
    if square:  # PyTorch divides by u W v: the sigma that is divided by here
        sigma = stats.get(f"{of_kernel}/sigma", np.sqrt(square))
        right = right * (np.asarray(sigma, np.float64) / square)
    arrays = {"w": weight, "u": u, "v": right.astype(u.dtype)}
    return result | {names[kind]: value for kind, value in arrays.items()}
