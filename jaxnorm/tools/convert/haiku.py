"""Conversion between the normalizers of a Haiku model and Flax variables."""

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

    `scale` and `offset` become scale and bias; the `average` of `~/mean_ema` and
    `~/var_ema` becomes mean and var. They are copies of the same dtype, bit for bit.
    Axes of size 1 are removed: (1, 1, 1, C) and (1, C, 1, 1) become (C,).

    Args:
      params: The params of a Haiku model: for each module name, a dict of arrays.
        Modules that are not converted are ignored.
      state: The state of the model, in the same form.
      layers: A dict from the module name of each layer to its path in the variables:
        `{"resnet/~/initial_batchnorm": ("BatchNorm_0",)}`. Layers without statistics
        are converted only if they are listed. None converts all modules that have a
        `~/mean_ema`; their names, split at slashes, are the paths: `("resnet", "~",
        "initial_batchnorm")`.
      counted: Whether to convert `counter` to count, a float32 scalar. It is needed to
        continue training as in Haiku, with `momentum_from_haiku(decay_rate)`.
      their_scale_offset: The number that Haiku's layers add to the stored scale; one
        for all layers, or a dict from the name of each layer with a scale. It is 1 for
        Gemma's layers, which store the distance from 1.
      scale_offset: The `scale_offset` of our layers, in the same form. If both are
        equal, scales are copied. Otherwise the difference is added, in float32 or
        wider, and rounded once.

    Returns:
      Nested dicts of NumPy arrays: `{"params": {path: {scale, bias}}, "batch_stats":
      {path: {mean, var[, count]}}}`, without the arrays that a layer lacks
      (`create_scale=False`).

    Warns:
      UserWarning: If in most layers `scale_offset + scale` is about 0, or about 2 with
        an offset; see `check_scales`.

    Raises:
      TypeError: If a path is not a tuple of strings, or an array is not floating.
      ValueError: If no layer is found; if a listed layer is missing, has an array of
        another name, has arrays of different shapes, or lacks an average.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> params = {"cnn/bn": {"scale": np.ones((1, 1, 1, 2), np.float32)}}
      >>> layers = {"cnn/bn": ("GroupNorm_0",)}
      >>> jaxnorm.tools.norms_from_haiku(params, {}, layers)["params"]
      {'GroupNorm_0': {'scale': array([1., 1.], dtype=float32)}}
    """
    for name, tree in (("params", params), ("state", state)):
        check_mapping(tree, name, "params and state, as transformed.init returns them")
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
    """Returns the normalizers of a Linen variables tree as Haiku params and state.

    This is the inverse of `norms_from_haiku`. Haiku stores each average twice: as it is
    used, and before the correction of its bias toward 0,
    `hidden = average * (1 - decay_rate^counter)`.

    Args:
      variables: The collections params and batch_stats, of one layer or of a whole
        model. Other layers are ignored.
      layers: As in `norms_from_haiku`, a dict from names to paths. None converts all
        layers that have a mean, and names them by their paths, joined with slashes.
      shape: The shape of Haiku's arrays, with -1 for the feature axis: (1, 1, 1, -1)
        for images, (1, -1) for vectors, (1, -1, 1, 1) with channels first. One shape
        for all layers, or a dict from the name of each layer.
      decay_rate: `decay_rate` of the Haiku layers, in (0, 1).
      counter: Number of updates of the statistics, at least 0, for layers without a
        count.
      their_scale_offset: As in `norms_from_haiku`; pass the same value.
      scale_offset: As in `norms_from_haiku`; pass the same value.

    Returns:
      The entries of params and of state, as copies, bit for bit.

    Warns:
      UserWarning: As `norms_from_haiku`.

    Raises:
      TypeError, ValueError: As `norms_from_haiku`; and if a shape has a wrong size, the
        decay rate is outside (0, 1), or the counter is negative, missing, or given for
        a layer that has a count.

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
            raise ValueError(
                f"{name!r} must have arrays that Haiku stores, got std. Leave this "
                "layer out of layers."
            )
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
    """Returns the arrays of one Haiku module by our names."""
    layer: Layer = {}
    for theirs, value in params.get(name, {}).items():
        if theirs not in PARAMS:
            raise ValueError(
                f"A normalizer of Haiku must have no other params than {list(PARAMS)}, "
                f"but {name!r} has {theirs!r}. It seems to be another layer: leave it "
                "out of layers."
            )
        layer[PARAMS[theirs]] = _squeeze(as_array(value, f"{name}/{theirs}"))
    for theirs, ours in AVERAGES.items():
        average = state.get(f"{name}/~/{theirs}")
        if average is None:
            continue
        missing = {"average", "counter"} - average.keys()
        if missing:
            raise ValueError(
                f"{name}/~/{theirs} must have average and counter, but lacks "
                f"{sorted(missing)}. Pass the whole state of the model."
            )
        layer[ours] = _squeeze(as_array(average["average"], f"{name}/~/{theirs}"))
        if counted:
            counter = as_array(average["counter"], f"{name}/~/{theirs}")
            layer["count"] = counter.astype(np.float32)
    if not layer:
        raise ValueError(
            f"params or state must have each layer listed in layers, got none named "
            f"{name!r}. The modules are {sorted({*params, *state})}."
        )
    return layer


def _squeeze(value: np.ndarray) -> np.ndarray:
    """Removes axes of size 1, but leaves at least one axis."""
    squeezed = np.squeeze(value)
    return squeezed if squeezed.ndim else squeezed.reshape(1)


def _reshape(value: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Returns an array in the shape that Haiku's layer has."""
    try:
        return value.reshape(shape)
    except ValueError:
        raise ValueError(
            f"shape of {name!r} must match its features, {value.shape}, as for example "
            f"(1, 1, 1, -1) does, got {shape}."
        ) from None


def _updates(count: np.ndarray | None, counter: int | None, name: str) -> int:
    """Returns the number of updates of a layer, from its count or from `counter`."""
    given = [int(value) for value in (count, counter) if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"{name!r} must have a count, or counter must be given, but not both, got "
            f"{'both' if given else 'neither'}. counter is the number of updates of "
            "the layers without a count."
        )
    (updates,) = given
    if updates < 0:
        raise ValueError(
            f"The number of updates of {name!r} must be at least 0, got {updates}. "
            "Pass the number of training steps as counter."
        )
    return updates


def _average(
    value: np.ndarray, decay_rate: float, updates: int
) -> dict[str, np.ndarray]:
    """Returns the state of Haiku's moving average that has the given value."""
    hidden = value.astype(np.float64) * (1 - decay_rate**updates)
    return {
        "average": value,
        "hidden": hidden.astype(value.dtype),
        "counter": np.array(updates, np.int32),
    }
