"""Conversion between the normalizers of Keras variables and Flax variables."""

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
        "scale": "scale",  # of RMSNormalization; the name below is written
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

    `gamma` (in `RMSNormalization` it is `scale`), `beta`, `moving_mean` and
    `moving_variance` become scale, bias, mean and var: copies of the same dtype, bit
    for bit. The momentum of Keras is the same as ours, the weight of the old
    statistics. The default epsilon of Keras is 1e-3, ours is 1e-5.

    A layer with `renorm=True` becomes a batch renormalization layer. Its mean and std
    are `moving_mean` and `moving_stddev`, which Keras uses in inference;
    `moving_variance`, which Keras computes from them, is dropped. Keras keeps another
    pair for training, `renorm_mean` and `renorm_stddev`. It must be missing, or equal
    to the first pair, as it is if `renorm_momentum` equals `momentum`.

    Args:
      arrays: Variables of Keras 3, or NumPy or JAX arrays, by their paths: `{v.path: v
        for v in model.variables}`. Variables of other layers are ignored.
      layers: A dict from the name of each layer to its path in the Linen variables:
        `{"resnet/bn": ("BatchNorm_0",)}`. Layers without statistics are converted only
        if they are listed. None converts all layers that have a `moving_mean`; their
        names, split at slashes, are the paths: `("resnet", "bn")`.
      count: Number of updates of the statistics, which Keras does not store. Batch
        renormalization needs it, and so does a momentum that is a function. Each layer
        with statistics gets it as a float32 scalar. None adds no count.
      their_scale_offset: The number that Keras's layers add to the stored scale; one
        for all layers, or a dict from the name of each layer with a scale. It is 1 for
        Gemma's layers, which store the distance from 1.
      scale_offset: The `scale_offset` of our layers, in the same form. If both are
        equal, scales are copied. Otherwise the difference is added, in float32 or
        wider, and rounded once.

    Returns:
      Nested dicts of NumPy arrays: `{"params": {path: {scale, bias}}, "batch_stats":
      {path: {mean, var or std[, count]}}}`, without the arrays that a layer lacks
      (`scale=False`, `center=False`).

    Warns:
      UserWarning: If in most layers `scale_offset + scale` is about 0, or about 2 with
        an offset; see `check_scales`.

    Raises:
      TypeError: If a path is not a tuple of strings, or an array is not floating.
      ValueError: If no layer is found; if a listed layer is missing, has an array of
        another name, has arrays of different shapes, or has only one of mean and
        variance; if the two pairs of a batch renormalization layer differ, or `count`
        is missing for one.

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
                    f"count must be given for {name!r}, because batch renormalization "
                    "counts its updates and Keras does not, got None. Pass the number "
                    "of steps for which the model was trained."
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
    """Returns the normalizers of a Linen variables tree by Keras's paths.

    This is the inverse of `norms_from_keras`; assign the arrays with `variable.assign`.
    A scale is always named `gamma`; rename that of an `RMSNormalization` to `scale`. A
    count is dropped, because Keras does not store it. Layers with a std get both pairs
    of statistics.

    Args:
      variables: The collections params and batch_stats, of one layer or of a whole
        model. Other layers are ignored.
      layers: As in `norms_from_keras`, a dict from names to paths. None converts all
        layers that have a mean, and names them by their paths, joined with slashes.
      epsilon: Epsilon of batch renormalization layers, the same in Keras and jaxnorm;
        their `moving_variance` is max(std^2 - epsilon, 0).
      their_scale_offset: As in `norms_from_keras`; pass the same value.
      scale_offset: As in `norms_from_keras`; pass the same value.

    Returns:
      Copies by Keras's names, bit for bit.

    Warns:
      UserWarning: As `norms_from_keras`.

    Raises:
      TypeError, ValueError: As `norms_from_keras`, and if epsilon is negative.

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
    """Removes the statistics that Keras's batch renormalization uses in training.

    Raises:
      ValueError: If they differ from those that it uses in inference.
    """
    for ours in ("mean", "std"):
        value = layer.pop(f"renorm_{ours}", None)
        if value is None:
            continue
        if ours not in layer or not np.array_equal(value, layer[ours], equal_nan=True):
            raise ValueError(
                f"The statistics of {name!r} for training (renorm_mean, "
                "renorm_stddev) must equal those for inference (moving_mean, "
                "moving_stddev), because jaxnorm keeps one pair, got different values. "
                "To preserve inference, remove renorm_mean and renorm_stddev. To "
                "preserve training, copy them to moving_mean and moving_stddev."
            )
