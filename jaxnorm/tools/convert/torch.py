"""Conversion between the normalizers of a PyTorch `state_dict` and Flax variables."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnorm.tools._trees import Path
from jaxnorm.tools.convert.flat import FlatNames
from jaxnorm.tools.convert.layers import (
    Layer,
    Variables,
    check_mapping,
    for_each,
)
from jaxnorm.tools.convert.scale_offsets import Offsets, ScaleOffsets
from jaxnorm.tools.convert.torch_weights import is_reparametrized
from jaxnorm.tools.convert.variables import from_variables, to_variables

NAMES = FlatNames(
    framework="PyTorch",
    separator=".",
    mean="running_mean",
    ours={
        "weight": "scale",
        "bias": "bias",
        "running_mean": "mean",
        "running_var": "var",
        "num_batches_tracked": "count",
    },
    argument="state_dict",
    source="net.state_dict()",
)


def norms_from_torch(
    state_dict: Mapping[str, object],
    layers: Mapping[str, Path] | None = None,
    *,
    elements: int | Mapping[str, int] | None = None,
    counted: bool = False,
    their_scale_offset: Offsets = 0.0,
    scale_offset: Offsets = 0.0,
) -> Variables:
    """Returns the normalizers of a PyTorch `state_dict` as a Linen variables tree.

    `weight`, `bias`, `running_mean` and `running_var` become scale, bias, mean and var:
    copies of the same dtype, bit for bit. Without `elements` the variance, which
    PyTorch keeps unbiased, is copied too. Inference then equals PyTorch's. To continue
    training as in PyTorch, use `unbiased=True` and `momentum_from_torch`.

    Args:
      state_dict: The `state_dict` of a whole model or of one layer: tensors on the CPU,
        or NumPy or JAX arrays. Entries of other layers are ignored.
      layers: A dict from the name of each layer to its path in the variables:
        `{"layer1.0.bn1": ("layer1", "BlockA", "BatchNorm_0")}`. Layers without
        statistics (layer, group, instance and RMS norm) are converted only if they are
        listed. None converts all layers that have a `running_mean`; their names, split
        at dots, are the paths: `("layer1", "0", "bn1")`.
      elements: Number of elements of a batch for each feature (N H W), at least 2; one
        number, or a dict from the name of each layer with statistics to its number. The
        variance is multiplied by (elements - 1) / elements. This gives the biased
        estimate if all batches had this number of elements and the initial variance of
        1 is forgotten. None copies the variance.
      counted: Whether to convert `num_batches_tracked` to count, a float32 scalar. Only
        a layer whose momentum is a function needs it.
      their_scale_offset: The number that PyTorch's layers add to the stored scale; one
        for all layers, or a dict from the name of each layer with a scale. It is 1 for
        Gemma's layers, which store the distance from 1.
      scale_offset: The `scale_offset` of our layers, in the same form. If both are
        equal, scales are copied. Otherwise the difference is added, in float32 or
        wider, and rounded once.

    Returns:
      Nested dicts of NumPy arrays: `{"params": {path: {scale, bias}}, "batch_stats":
      {path: {mean, var[, count]}}}`, without the arrays that a layer lacks
      (`affine=False`).

    Warns:
      UserWarning: If in most layers `scale_offset + scale` is about 0, or about 2 with
        an offset; see `check_scales`.

    Raises:
      TypeError: If a path is not a tuple of strings, an array is not floating, or a
        tensor is not a dense one on the CPU.
      ValueError: If no layer is found, or `elements` has wrong names or numbers; if a
        listed layer is missing, has an array of another name, has arrays of different
        shapes, or lacks the mean, the variance or a requested count.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> state_dict = {
      ...     "bn1.weight": np.ones(2, np.float32),
      ...     "bn1.bias": np.zeros(2, np.float32),
      ...     "bn1.running_mean": np.float32([3, 4]),
      ...     "bn1.running_var": np.float32([1, 2]),
      ...     "bn1.num_batches_tracked": np.array(7),
      ... }
      >>> norms = jaxnorm.tools.norms_from_torch(state_dict, {"bn1": ("BatchNorm_0",)})
      >>> norms["params"]["BatchNorm_0"]["scale"]
      array([1., 1.], dtype=float32)
      >>> norms["batch_stats"]["BatchNorm_0"]["var"]
      array([1., 2.], dtype=float32)
    """
    check_mapping(state_dict, NAMES.argument, NAMES.source)
    for name in layers or ():
        if is_reparametrized(state_dict, name):
            raise ValueError(
                f"{name!r} must be a normalizer, got a layer with weight or spectral "
                "norm. Convert it with weights_from_torch."
            )
    read, paths = NAMES.read(state_dict, layers)
    for name, layer in read.items():
        count = layer.pop("count", None)
        if counted and "mean" in layer:
            if count is None:
                raise ValueError(
                    f"{name!r} must have num_batches_tracked with counted=True, got "
                    "none. Pass counted=False, or add num_batches_tracked, the number "
                    "of its updates."
                )
            layer["count"] = count.astype(np.float32)
    if elements is not None:
        _scale_variances(read, elements, biased=True)
    offsets = ScaleOffsets(their_scale_offset, scale_offset)
    return to_variables(read, paths, offsets)


def norms_to_torch(
    variables: Mapping[str, Any],
    layers: Mapping[str, Path] | None = None,
    *,
    elements: int | Mapping[str, int] | None = None,
    their_scale_offset: Offsets = 0.0,
    scale_offset: Offsets = 0.0,
) -> dict[str, np.ndarray]:
    """Returns the normalizers of a Linen variables tree as entries of a `state_dict`.

    This is the inverse of `norms_from_torch`. `torch.from_numpy` converts the arrays to
    tensors (`torch.from_dlpack(jnp.asarray(array))` for bfloat16).

    Args:
      variables: The collections params and batch_stats, of one layer or of a whole
        model. Other layers are ignored.
      layers: As in `norms_from_torch`, a dict from names to paths. None converts all
        layers that have a mean, and names them by their paths, joined with dots.
      elements: As in `norms_from_torch`, but the variance is multiplied by
        elements / (elements - 1). None copies the variance, which is right if it is
        unbiased.
      their_scale_offset: As in `norms_from_torch`; pass the same value.
      scale_offset: As in `norms_from_torch`; pass the same value.

    Returns:
      Copies by PyTorch's names, bit for bit; with `num_batches_tracked` if a layer has
      a count. (Without it, `load_state_dict` of PyTorch sets it to 0.)

    Warns:
      UserWarning: As `norms_from_torch`.

    Raises:
      TypeError, ValueError: As `norms_from_torch`, and if a layer has a std.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> variables = {"params": {"LayerNorm_0": {"scale": np.float32([1, 2])}}}
      >>> jaxnorm.tools.norms_to_torch(variables, {"norm": ("LayerNorm_0",)})
      {'norm.weight': array([1., 2.], dtype=float32)}
    """
    offsets = ScaleOffsets(their_scale_offset, scale_offset)
    read = from_variables(variables, layers, NAMES.separator, offsets)
    if elements is not None:
        _scale_variances(read, elements, biased=False)
    for layer in read.values():
        if "count" in layer:
            layer["count"] = layer["count"].reshape(()).astype(np.int64)
    return NAMES.write(read)


def _scale_variances(
    layers: Mapping[str, Layer], elements: int | Mapping[str, int], *, biased: bool
) -> None:
    """Rescales the variances of layers, in place, to biased or unbiased estimates."""
    names = [name for name, layer in layers.items() if "var" in layer]
    for name, n in for_each(elements, names, "elements").items():
        if n < 2:
            raise ValueError(
                f"elements must be at least 2, got {n} for {name!r}. Pass the number "
                "of elements of a batch for each feature, N H W."
            )
        factor = (n - 1) / n if biased else n / (n - 1)
        var = layers[name]["var"]
        layers[name]["var"] = (var.astype(np.float64) * factor).astype(var.dtype)
