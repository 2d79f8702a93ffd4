"""Haiku: params and state to Flax variables and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnorm.tools._trees import Path
from jaxnorm.tools.convert.layers import (
    Layer,
    Variables,
    as_array,
    check_mapping,
    check_paths,
    for_each,
    split,
)
from jaxnorm.tools.convert.momentum import check_decay_rate
from jaxnorm.tools.convert.scale_offsets import Offsets, ScaleOffsets
from jaxnorm.tools.convert.variables import from_variables, to_variables

PARAMS = {"scale": "scale", "offset": "bias"}
AVERAGES = {"mean_ema": "mean", "var_ema": "var"}


def norms_from_haiku(
    params: Mapping[str, Mapping[str, object]],
    state: Mapping[str, Mapping[str, object]],
    layers: Mapping[str, Path] | None = None,
    *,
    counted: bool = False,
    their_scale_offset: Offsets = 0.0,
    scale_offset: Offsets = 0.0,
) -> Variables:
    """Returns the normalizers of a Haiku model as a Linen variables tree.

    `scale` and `offset` become scale and bias, the `average` of `~/mean_ema` and
    `~/var_ema` mean and var: copies, of the same dtype, bit for bit. Axes of size 1 are
    left out: (1, 1, 1, C) becomes (C,), and so does (1, C, 1, 1).

    Args:
      params: Arrays by the names of modules, then their own, as from `init`. All but
        the layers is ignored.
      state: Likewise.
      layers: The path in the variables of each layer, by the name of its module:
        `{"resnet/~/initial_batchnorm": ("BatchNorm_0",)}`. Layers without statistics
        are converted where they are named. None: all modules that have a `~/mean_ema`,
        at the paths that slashes make of their names: `("resnet", "~",
        "initial_batchnorm")`.
      counted: Whether `counter` becomes count, a float32 scalar, which training needs
        that goes on as in Haiku: with `momentum_from_haiku(decay_rate)`.
      their_scale_offset: What Haiku's layers add to the stored scale, of all layers
        or by the name of each that has a scale: 1 for Gemma's, which store the distance
        from 1.
      scale_offset: That of our layers, likewise. Where both are equal, scales are
        copied; else the difference is added, in float32 or wider, and rounded once.

    Returns:
      Nested dicts of NumPy arrays: `{"params": {path: {scale, bias}}, "batch_stats":
      {path: {mean, var[, count]}}}`. What a layer lacks (`create_scale=False`) is not
      there.

    Warns:
      UserWarning: If in most layers `scale_offset + scale` is about 0, or with an
        offset about 2; see `check_scales`.

    Raises:
      TypeError: If a path is not a tuple of strings, or an array not floating.
      ValueError: If no layer is found, one that is named is not there, has an array of
        another name, lacks an average, or its shapes differ.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> params = {"cnn/bn": {"scale": np.ones((1, 1, 1, 2), np.float32)}}
      >>> layers = {"cnn/bn": ("GroupNorm_0",)}
      >>> jaxnorm.tools.norms_from_haiku(params, {}, layers)["params"]
      {'GroupNorm_0': {'scale': array([1., 1.], dtype=float32)}}
    """
    for name, tree in (("params", params), ("state", state)):
        check_mapping(tree, name, "params and state, which transformed.init returned")
    if layers is None:
        end = "/~/mean_ema"
        found = [name.removesuffix(end) for name in state if name.endswith(end)]
        layers = split(found, "/")
    paths = check_paths(layers, "~/mean_ema")
    read = {name: _read(name, params, state, counted=counted) for name in paths}
    offsets = ScaleOffsets(their_scale_offset, scale_offset)
    return to_variables(read, paths, offsets)


def norms_to_haiku(
    variables: Mapping[str, Any],
    layers: Mapping[str, Path] | None = None,
    *,
    shape: tuple[int, ...] | Mapping[str, tuple[int, ...]],
    decay_rate: float,
    counter: int | None = None,
    their_scale_offset: Offsets = 0.0,
    scale_offset: Offsets = 0.0,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]:
    """Returns the normalizers of a Linen variables tree as params and state of Haiku.

    The way back of `norms_from_haiku`. Haiku keeps an average twice: as it is used, and
    before its bias towards 0 is removed, `hidden = average * (1 - decay_rate^counter)`.

    Args:
      variables: The collections params and batch_stats; of one layer or of a whole
        model. All but the layers is ignored.
      layers: As in `norms_from_haiku`: paths by names. None: all layers that have a
        mean, named by their paths joined with slashes.
      shape: The shape of Haiku's arrays, -1 where the features are: (1, 1, 1, -1) for
        images, (1, -1) for vectors, (1, -1, 1, 1) with channels first. One for all
        layers, or one by the name of each.
      decay_rate: That of the Haiku layers, in (0, 1).
      counter: Number of updates that the statistics have seen, at least 0, for layers
        without a count.
      their_scale_offset: As in `norms_from_haiku`, of which this is the way back.
      scale_offset: Likewise.

    Returns:
      The entries of params and of state, copies, bit for bit.

    Warns:
      UserWarning: As `norms_from_haiku`.

    Raises:
      TypeError, ValueError: As `norms_from_haiku`; and if a shape does not fit, the
        decay rate is outside (0, 1), the counter negative, missing, or given for a
        layer that has a count.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> stats = {"mean": np.float32([1, 2]), "var": np.float32([3, 4])}
      >>> params, state = jaxnorm.tools.norms_to_haiku(
      ...     {"batch_stats": {"bn": stats}}, shape=(1, -1), decay_rate=0.5, counter=1
      ... )
      >>> state["bn/~/mean_ema"]["hidden"]
      array([[0.5, 1. ]], dtype=float32)
    """
    check_decay_rate(decay_rate)
    offsets = ScaleOffsets(their_scale_offset, scale_offset)
    read = from_variables(variables, layers, "/", offsets)
    shapes = for_each(shape, read, "shape")
    params, state = {}, {}
    for name, layer in read.items():
        count = layer.pop("count", None)
        shaped = {k: _reshape(v, shapes[name], name) for k, v in layer.items()}
        own = {theirs: shaped[k] for theirs, k in PARAMS.items() if k in shaped}
        if own:
            params[name] = own
        if "std" in layer:
            raise ValueError(f"{name!r} has std, for which Haiku has no place.")
        if "mean" in layer:
            updates = _updates(count, counter, name)
            for theirs, ours in AVERAGES.items():
                state[f"{name}/~/{theirs}"] = _average(
                    shaped[ours], decay_rate, updates
                )
    return params, state


def _read(
    name: str,
    params: Mapping[str, Mapping[str, object]],
    state: Mapping[str, Mapping[str, object]],
    *,
    counted: bool,
) -> Layer:
    layer: Layer = {}
    for theirs, value in params.get(name, {}).items():
        if theirs not in PARAMS:
            raise ValueError(
                f"A normalizer of Haiku has {list(PARAMS)} at most, but {name!r} has "
                f"{theirs!r}. Is it another layer?"
            )
        layer[PARAMS[theirs]] = _squeeze(as_array(value, f"{name}/{theirs}"))
    for theirs, ours in AVERAGES.items():
        average = state.get(f"{name}/~/{theirs}")
        if average is None:
            continue
        missing = {"average", "counter"} - average.keys()
        if missing:
            raise ValueError(f"{name}/~/{theirs} is without {sorted(missing)}.")
        layer[ours] = _squeeze(as_array(average["average"], f"{name}/~/{theirs}"))
        if counted:
            counter = as_array(average["counter"], f"{name}/~/{theirs}")
            layer["count"] = counter.astype(np.float32)
    if not layer:
        raise ValueError(
            f"There is no normalizer {name!r} in params and state, which have "
            f"{sorted({*params, *state})}."
        )
    return layer


def _squeeze(value: np.ndarray) -> np.ndarray:
    squeezed = np.squeeze(value)
    return squeezed if squeezed.ndim else squeezed.reshape(1)


def _reshape(value: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        return value.reshape(shape)
    except ValueError:
        raise ValueError(
            f"shape of {name!r} must fit its {value.shape} features, such as "
            f"(1, 1, 1, -1), got {shape}."
        ) from None


def _updates(count: np.ndarray | None, counter: int | None, name: str) -> int:
    given = [int(value) for value in (count, counter) if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"The number of updates of {name!r} must come from its count or from "
            f"counter, got {'both' if given else 'neither'}."
        )
    (updates,) = given
    if updates < 0:
        raise ValueError(f"The number of updates must be at least 0, got {updates}.")
    return updates


def _average(
    value: np.ndarray, decay_rate: float, updates: int
) -> dict[str, np.ndarray]:
    hidden = value.astype(np.float64) * (1 - decay_rate**updates)
    return {
        "average": value,
        "hidden": hidden.astype(value.dtype),
        "counter": np.array(updates, np.int32),
    }
