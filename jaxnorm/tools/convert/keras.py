"""Keras: variables by their paths to Flax variables and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm.tools._trees import Path
from jaxnorm.tools.convert.flat import FlatNames
from jaxnorm.tools.convert.layers import (
    Layer,
    Variables,
)
from jaxnorm.tools.convert.scale_offsets import Offsets, ScaleOffsets
from jaxnorm.tools.convert.variables import from_variables, to_variables

NAMES = FlatNames(
    framework="Keras",
    separator="/",
    mean="moving_mean",
    ours={
        "gamma": "scale",
        "beta": "bias",
        "moving_mean": "mean",
        "moving_variance": "var",
        "moving_stddev": "std",
        "renorm_mean": "renorm_mean",
        "renorm_stddev": "renorm_std",
    },
    argument="variables",
    source="{v.path: v for v in model.variables}",
)


def norms_from_keras(
    arrays: Mapping[str, object],
    layers: Mapping[str, Path] | None = None,
    *,
    count: int | None = None,
    their_scale_offset: Offsets = 0.0,
    scale_offset: Offsets = 0.0,
) -> Variables:
    """Returns the normalizers of a Keras model as a Linen variables tree.

    `gamma`, `beta`, `moving_mean` and `moving_variance` become scale, bias, mean and
    var: copies, of the same dtype, bit for bit. Keras' momentum is ours, the weight of
    the old statistics; its epsilon is 1e-3 unless it was set, ours 1e-5.

    A layer with `renorm=True` becomes one of batch renormalization: mean and std are
    `moving_mean` and `moving_stddev`, with which Keras infers; `moving_variance`, which
    it computes from them, is dropped. Keras keeps a second pair for training,
    `renorm_mean` and `renorm_stddev`, which must be equal to the first (it is if
    `renorm_momentum` is `momentum`), or left out.

    Args:
      arrays: Variables of Keras 3, or NumPy or JAX arrays, by their paths: `{v.path: v
        for v in model.variables}`. All but the layers is ignored.
      layers: The path in the Linen variables of each layer, by its name:
        `{"resnet/bn": ("BatchNorm_0",)}`. Layers without statistics are converted where
        they are named. None: all layers that have a `moving_mean`, at the paths that
        slashes make of their names: `("resnet", "bn")`.
      count: Number of updates that the statistics have seen, which Keras does not keep:
        needed by batch renormalization, and by a momentum that is a function; a float32
        scalar in each layer that has statistics. None: there is none.
      their_scale_offset: What Keras's layers add to the stored scale, of all layers
        or by the name of each that has a scale: 1 for Gemma's, which store the distance
        from 1.
      scale_offset: That of our layers, likewise. Where both are equal, scales are
        copied; else the difference is added, in float32 or wider, and rounded once.

    Returns:
      Nested dicts of NumPy arrays: `{"params": {path: {scale, bias}}, "batch_stats":
      {path: {mean, var or std[, count]}}}`. What a layer lacks (`scale=False`,
      `center=False`) is not there.

    Warns:
      UserWarning: If in most layers `scale_offset + scale` is about 0, or with an
        offset about 2; see `check_scales`.

    Raises:
      TypeError: If a path is not a tuple of strings, or an array not floating.
      ValueError: If no layer is found, one that is named is not there, has an array of
        another name, lacks one of mean and variance, or its shapes differ; if the two
        pairs of batch renormalization differ, or it comes without a count.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> arrays = {
      ...     "cnn/bn/gamma": np.float32([1, 2]),
      ...     "cnn/bn/moving_mean": np.float32([3, 4]),
      ...     "cnn/bn/moving_variance": np.float32([5, 6]),
      ... }
      >>> jaxnorm.tools.norms_from_keras(arrays)["params"]
      {'cnn': {'bn': {'scale': array([1., 2.], dtype=float32)}}}
    """
    read, paths = NAMES.read(arrays, layers)
    for name, layer in read.items():
        _drop_training_pair(layer, name)
        if "std" in layer:
            layer.pop("var", None)
            if count is None:
                raise ValueError(
                    f"{name!r} has batch renormalization, whose statistics count their "
                    "updates, and Keras does not: pass count, the number of steps that "
                    "it was trained for."
                )
        if count is not None and "mean" in layer:
            layer["count"] = np.array(count, np.float32)
    offsets = ScaleOffsets(their_scale_offset, scale_offset)
    return to_variables(read, paths, offsets)


def norms_to_keras(
    variables: Mapping[str, Any],
    layers: Mapping[str, Path] | None = None,
    *,
    epsilon: float = 1e-3,
    their_scale_offset: Offsets = 0.0,
    scale_offset: Offsets = 0.0,
) -> dict[str, np.ndarray]:
    """Returns the normalizers of a Linen variables tree by the paths of Keras.

    The way back of `norms_from_keras`; `variable.assign` takes the arrays. A count is
    dropped, since Keras keeps none. Layers with a std get both pairs of statistics.

    Args:
      variables: The collections params and batch_stats; of one layer or of a whole
        model. All but the layers is ignored.
      layers: As in `norms_from_keras`: paths by names. None: all layers that have a
        mean, named by their paths joined with slashes.
      epsilon: That of the layers with batch renormalization, in Keras and with us;
        their `moving_variance` is max(std^2 - epsilon, 0).
      their_scale_offset: As in `norms_from_keras`, of which this is the way back.
      scale_offset: Likewise.

    Returns:
      Copies by Keras' names, bit for bit.

    Warns:
      UserWarning: As `norms_from_keras`.

    Raises:
      TypeError, ValueError: As `norms_from_keras`; and if epsilon is negative.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> variables = {"params": {"LayerNorm_0": {"scale": np.float32([1, 2])}}}
      >>> jaxnorm.tools.norms_to_keras(variables, {"cnn/norm": ("LayerNorm_0",)})
      {'cnn/norm/gamma': array([1., 2.], dtype=float32)}
    """
    epsilon = check_epsilon(epsilon)
    offsets = ScaleOffsets(their_scale_offset, scale_offset)
    read = from_variables(variables, layers, NAMES.separator, offsets)
    for layer in read.values():
        layer.pop("count", None)
        if "std" in layer:
            std = layer["std"]
            var = np.maximum(np.square(std.astype(np.float64)) - epsilon, 0)
            layer["var"] = var.astype(std.dtype)
            layer["renorm_mean"], layer["renorm_std"] = layer["mean"], std
    return NAMES.write(read)


def _drop_training_pair(layer: Layer, name: str) -> None:
    for ours in ("mean", "std"):
        value = layer.pop(f"renorm_{ours}", None)
        if value is None:
            continue
        if ours not in layer or not np.array_equal(value, layer[ours], equal_nan=True):
            raise ValueError(
                f"The statistics with which {name!r} trains (renorm_mean, "
                "renorm_stddev) differ from those with which it infers (moving_mean, "
                "moving_stddev), and here there is one pair. Leave out the first to "
                "keep inference as it is, or put them in the place of the second to "
                "keep training as it is."
            )
