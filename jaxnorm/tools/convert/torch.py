"""PyTorch: a `state_dict` to Flax variables and back."""

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
    copies, of the same dtype, bit for bit. Without `elements` that holds for the
    variance too, which PyTorch keeps unbiased: inference is then that of PyTorch, and
    training goes on as there with `unbiased=True` and `momentum_from_torch`.

    Args:
      state_dict: Of a whole model or of one layer: tensors on the CPU, NumPy or JAX
        arrays. All but the layers is ignored.
      layers: The path in the variables of each layer, by its name: `{"layer1.0.bn1":
        ("layer1", "BlockA", "BatchNorm_0")}`. Layers without statistics (layer, group,
        instance and RMS norm) are converted where they are named. None: all layers
        that have a `running_mean`, at the paths that dots make of their names:
        `("layer1", "0", "bn1")`.
      elements: How many elements a batch had for each feature (N H W), at least 2; one
        number, or one by the name of each layer that has statistics. The variance is
        then multiplied by (elements - 1) / elements, which makes it the biased
        estimate if all batches had as many and its initial 1 is forgotten. None: it
        stays as it is stored.
      counted: Whether `num_batches_tracked` becomes count, a float32 scalar, which a
        momentum that is a function needs, and no other.
      their_scale_offset: What PyTorch's layers add to the stored scale, of all layers
        or by the name of each that has a scale: 1 for Gemma's, which store the distance
        from 1.
      scale_offset: That of our layers, likewise. Where both are equal, scales are
        copied; else the difference is added, in float32 or wider, and rounded once.

    Returns:
      Nested dicts of NumPy arrays: `{"params": {path: {scale, bias}}, "batch_stats":
      {path: {mean, var[, count]}}}`. What a layer lacks (`affine=False`) is not there.

    Warns:
      UserWarning: If in most layers `scale_offset + scale` is about 0, or with an
        offset about 2; see `check_scales`.

    Raises:
      TypeError: If a path is not a tuple of strings, or an array not floating.
      ValueError: If no layer is found, one that is named is not there, has an array of
        another name, lacks one of mean, variance and the count that is asked for, or
        its shapes differ; or `elements` do not fit.

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
                f"{name!r} must be a normalizer, and is a layer with weight or "
                "spectral norm. Convert it with weights_from_torch."
            )
    read, paths = NAMES.read(state_dict, layers)
    for name, layer in read.items():
        count = layer.pop("count", None)
        if counted and "mean" in layer:
            if count is None:
                raise ValueError(
                    f"{name!r} is without num_batches_tracked, of which count would be "
                    "made. Pass counted=False, or add the number of its updates."
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

    The way back of `norms_from_torch`; `torch.from_numpy` makes tensors of the arrays
    (`torch.from_dlpack(jnp.asarray(array))` where they are bfloat16).

    Args:
      variables: The collections params and batch_stats; of one layer or of a whole
        model. All but the layers is ignored.
      layers: As in `norms_from_torch`: paths by names. None: all layers that have a
        mean, named by their paths joined with dots.
      elements: As there; the variance is multiplied by elements / (elements - 1). None:
        it stays as it is stored: right for one that is unbiased.
      their_scale_offset: As in `norms_from_torch`, of which this is the way back.
      scale_offset: Likewise.

    Returns:
      Copies by PyTorch's names, bit for bit; `num_batches_tracked` where there is a
      count. (PyTorch's `load_state_dict` starts at 0 without it.)

    Warns:
      UserWarning: As `norms_from_torch`.

    Raises:
      TypeError, ValueError: As `norms_from_torch`; and if a layer has a std.

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
    """Makes the variances of layers biased, or unbiased, estimates."""
    names = [name for name, layer in layers.items() if "var" in layer]
    for name, n in for_each(elements, names, "elements").items():
        if n < 2:
            raise ValueError(
                "elements must be at least 2, since a batch of one element has no "
                f"unbiased variance, got {n} for {name!r}."
            )
        factor = (n - 1) / n if biased else n / (n - 1)
        var = layers[name]["var"]
        layers[name]["var"] = (var.astype(np.float64) * factor).astype(var.dtype)
