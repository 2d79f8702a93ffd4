"""Batch normalization as part of the layer that stands before or after it."""

from collections.abc import Sequence

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Inexact

from jaxnorm._core.arguments.axes import Axes, canonical_axes, other_axes, sizes
from jaxnorm._core.arguments.validation import check_epsilon, check_flags, check_integer
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, real_dtype
from jaxnorm._core.running.stats import BatchStats, CountedBatchStats

Padding = str | int | Sequence[int | tuple[int, int]]

# What these put at the border are values that were normalized, not zeros.
_REPEATING = ("CIRCULAR", "REFLECT")


def fold_batch_norm(
    kernel: Inexact[Array, "..."],
    bias: Inexact[Array, "..."] | None,
    stats: BatchStats | CountedBatchStats,
    scale: Inexact[Array, "..."] | None,
    norm_bias: Inexact[Array, "..."] | None,
    *,
    epsilon: float = 1e-5,
    norm_first: bool = False,
    in_axes: Axes = -2,
    out_axes: Axes = -1,
    groups: int = 1,
    padding: Padding | None = None,
    transposed: bool = False,
) -> tuple[Array, Array]:
    """Makes batch norm in inference part of a convolution or dense layer.

    With s = scale / sqrt(var + epsilon) and t = norm_bias - mean s, for a norm after
    the layer, and (`norm_first`) for one before it, with sums over the whole kernel of
    an output::

        kernel_io s_o    and    bias_o s_o + t_o
        kernel_io s_i    and    bias_o + sum kernel_io t_i

    computed in float32 or wider. The first is exact for every layer that is linear in
    kernel and bias; the second where each output sees the whole kernel, so that the sum
    is the same everywhere: not at a border that is padded with zeros after the norm.

    Args:
      kernel: Of a layer of Flax, (..., in, out), HWIO for instance; floating.
      bias: The layer's, of the shape of its outputs; 0 where None.
      stats: The running statistics, of the shape of the features that are normalized:
        the layer's outputs or (`norm_first`) inputs; of the last of these axes where
        there are several.
      scale: The norm's, of the shape of `stats`; 1 where None.
      norm_bias: The norm's, likewise; 0 where None.
      epsilon: What the norm adds to the variance; at least 0.
      norm_first: Whether the norm stands before the layer.
      in_axes: The axis or axes of the kernel that are the layer's inputs; -1 for
        `nn.ConvTranspose(transpose_kernel=True)`.
      out_axes: Those that are its outputs; -2 for that layer.
      groups: `feature_group_count` of a convolution.
      padding: That of a convolution, as in Flax; needed with `norm_first` only.
        Exact are "VALID", zeros in numbers, "CIRCULAR" and "REFLECT", which repeat
        normalized values; and, if the kernel's size is 1, "SAME" and "CAUSAL", which
        then pad nothing.
      transposed: Whether zeros are put around or between the inputs: a transposed
        convolution, or one with `input_dilation`; matters with `norm_first` only.

    Returns:
      Kernel and bias, in the dtypes that they had; a bias that was None in the
      kernel's.

    Raises:
      TypeError: If an array is not floating, `stats` are not statistics of batch norm,
        or they are complex and the kernel is not.
      ValueError: If shapes do not fit, epsilon is negative, or the norm stands first
        and its bias cannot be folded exactly.

    Reference:
      Jacob et al., 2018, Quantization and Training of Neural Networks for Efficient
      Integer-Arithmetic-Only Inference, section 3.2
      (https://arxiv.org/abs/1712.05877), for the norm after the layer.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> from jaxnorm.tools import fold_batch_norm
      >>> x, kernel = jnp.array([[1.0, 2.0]]), jnp.array([[1.0], [3.0]])
      >>> stats = jaxnorm.BatchStats(mean=jnp.array([1.0]), var=jnp.array([4.0]))
      >>> y, _ = jaxnorm.batch_norm(x @ kernel, stats, use_running_average=True)
      >>> kernel, bias = fold_batch_norm(kernel, None, stats, None, None)
      >>> jnp.allclose(x @ kernel + bias[None], y)
      Array(True, dtype=bool)
    """
    check_flags(norm_first=norm_first, transposed=transposed)
    if check_integer(groups, "groups") < 1:
        raise ValueError(f"groups must be at least 1, got {groups}.")
    kernel = check_inexact(kernel, "kernel")
    outputs = canonical_axes(out_axes, kernel.ndim, "out_axes")
    bias = _layer_bias(bias, kernel, outputs)
    s, t = _scale_and_shift(stats, scale, norm_bias, check_epsilon(epsilon))
    if jnp.iscomplexobj(s + t) and not jnp.iscomplexobj(kernel):
        raise TypeError(
            "kernel must be complex where statistics, scale or bias of the norm are, "
            f"got {kernel.dtype}. Convert it first."
        )
    wide = accumulation_dtype(kernel.dtype, bias.dtype, s.dtype, t.dtype)
    old, s, t = kernel.astype(wide), s.astype(wide), t.astype(wide)
    if not norm_first:
        new = old * _per_output(s, kernel, outputs)
        moved = bias.astype(wide) * _last(s, len(outputs)) + _last(t, len(outputs))
        return new.astype(kernel.dtype), moved.astype(bias.dtype)

    inputs = canonical_axes(in_axes, kernel.ndim, "in_axes")
    if set(inputs) & set(outputs):
        raise ValueError(
            f"in_axes and out_axes must be different axes of the kernel, got {in_axes} "
            f"and {out_axes} for one of rank {kernel.ndim}."
        )
    space = other_axes((*inputs, *outputs), kernel.ndim)
    _check_exact(sizes(kernel.shape, space), padding, transposed)
    new = old * _per_input(s, kernel, inputs, outputs, groups)
    added = jnp.sum(
        old * _per_input(t, kernel, inputs, outputs, groups),
        other_axes(outputs, kernel.ndim),
    )
    return new.astype(kernel.dtype), (bias.astype(wide) + added).astype(bias.dtype)


def _layer_bias(bias: Array | None, kernel: Array, outputs: tuple[int, ...]) -> Array:
    shape = sizes(kernel.shape, outputs)
    if bias is None:
        return jnp.zeros(shape, kernel.dtype)
    bias = check_inexact(bias, "bias")
    if bias.shape != shape:
        raise ValueError(
            f"bias must have the shape of the layer's outputs, {shape} (axes {outputs} "
            f"of a kernel of shape {kernel.shape}), got {bias.shape}. Are out_axes the "
            "axes you mean? With transpose_kernel=True they are -2."
        )
    return bias


def _scale_and_shift(
    stats: BatchStats | CountedBatchStats,
    scale: Array | None,
    bias: Array | None,
    epsilon: float,
) -> tuple[Array, Array]:
    """Returns s and t with which the norm is x s + t."""
    if not isinstance(stats, BatchStats | CountedBatchStats):
        raise TypeError(
            "stats must be BatchStats or CountedBatchStats, got "
            f"{type(stats).__name__}. Of a module's variables make them with "
            "jaxnorm.BatchStats(mean, var)."
        )
    mean = check_inexact(stats.mean, "stats.mean")
    var = check_inexact(stats.var, "stats.var")
    scale = jnp.ones_like(var) if scale is None else check_inexact(scale, "scale")
    bias = jnp.zeros_like(mean) if bias is None else check_inexact(bias, "norm_bias")
    for name, value in {"stats.var": var, "scale": scale, "norm_bias": bias}.items():
        if value.shape != mean.shape:
            raise ValueError(
                f"{name} must have the shape of stats.mean, {mean.shape}, got "
                f"{value.shape}. Are they of the same norm?"
            )
    wide = accumulation_dtype(mean.dtype, var.dtype, scale.dtype, bias.dtype)
    inverse = lax.rsqrt(var.astype(real_dtype(wide)) + epsilon)
    s = scale.astype(wide) * inverse.astype(wide)
    return s, bias.astype(wide) - mean.astype(wide) * s


def _last(value: Array, ndim: int) -> Array:
    """Returns `value` with leading axes of size 1."""
    return jnp.expand_dims(value, tuple(range(ndim - value.ndim)))


def _per_output(value: Array, kernel: Array, outputs: tuple[int, ...]) -> Array:
    """Returns a value of each output with the rank of the kernel."""
    _check_features(value, sizes(kernel.shape, outputs), kernel, "outputs")
    return jnp.expand_dims(_last(value, len(outputs)), other_axes(outputs, kernel.ndim))


def _per_input(
    value: Array,
    kernel: Array,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    groups: int,
) -> Array:
    """Returns a value of each input with the rank of the kernel."""
    shape = sizes(kernel.shape, inputs)
    if groups == 1:
        _check_features(value, shape, kernel, "inputs")
        return jnp.expand_dims(
            _last(value, len(inputs)), other_axes(inputs, kernel.ndim)
        )
    if len(inputs) != 1 or len(outputs) != 1 or kernel.shape[outputs[0]] % groups:
        raise ValueError(
            "groups need a kernel with one axis of inputs and one of outputs, which "
            f"they divide, got {groups} groups, in_axes {inputs} and out_axes "
            f"{outputs} of a kernel of shape {kernel.shape}."
        )
    _check_features(value, (groups * shape[0],), kernel, "inputs")
    # Input i of an output is input i of that output's group.
    of_group = jnp.reshape(value, (groups, shape[0]))
    table = jnp.repeat(of_group, kernel.shape[outputs[0]] // groups, axis=0)
    if inputs < outputs:
        table = table.T
    return jnp.expand_dims(table, other_axes((*inputs, *outputs), kernel.ndim))


def _check_features(
    value: Array, shape: tuple[int, ...], kernel: Array, side: str
) -> None:
    if not value.ndim or value.shape != shape[len(shape) - value.ndim :]:
        raise ValueError(
            f"stats must have the shape of the layer's {side}, {shape} (of a kernel of "
            f"shape {kernel.shape}), or of the last of these axes, got {value.shape}. "
            "Does the norm belong to this layer; does it stand before it "
            "(norm_first=True); is it a grouped convolution (groups); has the kernel "
            "another layout (in_axes, out_axes)?"
        )


def _check_exact(
    kernel_size: tuple[int, ...], padding: Padding | None, transposed: bool
) -> None:
    """Checks that every output sees the whole kernel."""
    if not kernel_size:
        return
    if transposed:
        raise ValueError(
            "a norm before a transposed convolution cannot be folded exactly, since "
            "zeros stand between or around its inputs after they are normalized, which "
            "no bias that is the same everywhere makes up for. Only with strides of 1 "
            'and circular padding there are none: padding="CIRCULAR", '
            "transposed=False."
        )
    if isinstance(padding, str):
        one = max(kernel_size) == 1 and padding in ("SAME", "CAUSAL")
        exact = one or padding == "VALID" or padding in _REPEATING
    else:
        exact = padding is not None and not any(jax.tree.leaves(padding))
    if not exact:
        raise ValueError(
            "a norm before a convolution can be folded exactly only where nothing is "
            "padded with zeros (the zeros are not normalized, so that outputs at the "
            'border would need another bias): padding must be "VALID", 0, "CIRCULAR" '
            f'or "REFLECT", got {padding!r} and a kernel of size {kernel_size}. Fold '
            "the norm into the layer before it, if there is one, or leave it."
        )
