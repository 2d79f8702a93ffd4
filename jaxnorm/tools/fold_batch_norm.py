"""Folding of batch norm into the convolution or dense layer before or after it."""

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

# These modes pad with normalized values, not with zeros.
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
    """Folds inference batch norm into a convolution or dense layer.

    With s = scale / sqrt(var + epsilon) and t = norm_bias - mean s, the new kernel and
    bias are, for a norm after the layer (first line) and for a norm before it
    (`norm_first`, second line; the sum is over all kernel elements of an output)::

        kernel_io s_o    and    bias_o s_o + t_o
        kernel_io s_i    and    bias_o + sum kernel_io t_i

    They are computed in float32 or wider. The first line is exact for every layer that
    is linear in kernel and bias. The second is exact if the sum is the same for every
    output, that is, if every output uses the whole kernel. This is not so at a border
    that is padded with zeros after the norm.

    Args:
      kernel: Floating-point kernel of a Flax layer, (..., in, out), for instance HWIO.
      bias: Bias of the layer, of the shape of its outputs; None means 0.
      stats: Running statistics, with the shape of the normalized features: the outputs
        of the layer, or its inputs if `norm_first`. If these have several axes, the
        shape may be that of the last ones.
      scale: Scale of the norm, of the shape of `stats`; None means 1.
      norm_bias: Bias of the norm, of the shape of `stats`; None means 0.
      epsilon: Epsilon of the norm; at least 0.
      norm_first: Whether the norm precedes the layer.
      in_axes: The axis or axes of the kernel for the inputs of the layer; -1 for
        `nn.ConvTranspose(transpose_kernel=True)`.
      out_axes: The axis or axes of the kernel for the outputs of the layer; -2 for
        `nn.ConvTranspose(transpose_kernel=True)`.
      groups: `feature_group_count` of a convolution.
      padding: Padding of a convolution, as in Flax; needed only with `norm_first`.
        Folding is exact for "VALID", for numbers that are all 0, and for "CIRCULAR" and
        "REFLECT", which repeat normalized values. For a kernel of size 1, "SAME" and
        "CAUSAL" are exact too, because they do not pad.
      transposed: Whether the layer inserts zeros around or between its inputs, as a
        transposed convolution or `input_dilation` does; used only with `norm_first`.

    Returns:
      Kernel and bias, in their original dtypes; if `bias` is None, the new bias has the
      dtype of the kernel.

    Raises:
      TypeError: If an array is not floating, `stats` are not statistics of batch norm,
        or the statistics are complex and the kernel is not.
      ValueError: If a shape is wrong, epsilon is negative, or the norm precedes the
        layer and its bias cannot be folded exactly.

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
        raise ValueError(
            f"groups must be at least 1, got {groups}. Pass the feature_group_count of "
            "the convolution."
        )
    kernel = check_inexact(kernel, "kernel")
    outputs = canonical_axes(out_axes, kernel.ndim, "out_axes")
    bias = _layer_bias(bias, kernel, outputs)
    s, t = _scale_and_shift(stats, scale, norm_bias, check_epsilon(epsilon))
    if jnp.iscomplexobj(s + t) and not jnp.iscomplexobj(kernel):
        raise TypeError(
            "kernel must be complex if the statistics, scale or bias of the norm are, "
            f"got {kernel.dtype}. Convert it: kernel.astype(jnp.complex64)."
        )
    wide = accumulation_dtype(kernel.dtype, bias.dtype, s.dtype, t.dtype)
    old, s, t = kernel.astype(wide), s.astype(wide), t.astype(wide)
    if not norm_first:
        new = old * _per_output(s, kernel, outputs)
        s, t = (_with_leading_axes(value, len(outputs)) for value in (s, t))
        moved = bias.astype(wide) * s + t
        return new.astype(kernel.dtype), moved.astype(bias.dtype)

    inputs = canonical_axes(in_axes, kernel.ndim, "in_axes")
    if set(inputs) & set(outputs):
        raise ValueError(
            f"in_axes and out_axes must be different axes of the kernel, got {in_axes} "
            f"and {out_axes} for a kernel of rank {kernel.ndim}."
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
    """Returns the bias of the layer, zeros if it has none, with its shape checked."""
    shape = sizes(kernel.shape, outputs)
    if bias is None:
        return jnp.zeros(shape, kernel.dtype)
    bias = check_inexact(bias, "bias")
    if bias.shape != shape:
        raise ValueError(
            f"bias must have the shape of the layer's outputs, {shape} (axes {outputs} "
            f"of a kernel of shape {kernel.shape}), got {bias.shape}. Check out_axes: "
            "with transpose_kernel=True it is -2."
        )
    return bias


def _scale_and_shift(
    stats: BatchStats | CountedBatchStats,
    scale: Array | None,
    bias: Array | None,
    epsilon: float,
) -> tuple[Array, Array]:
    """Returns the s and t for which the norm computes x s + t."""
    if not isinstance(stats, BatchStats | CountedBatchStats):
        raise TypeError(
            "stats must be BatchStats or CountedBatchStats, got "
            f"{type(stats).__name__}. For the variables of a module, write "
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
                f"{value.shape}. Pass the arrays of one norm."
            )
    wide = accumulation_dtype(mean.dtype, var.dtype, scale.dtype, bias.dtype)
    inverse = lax.rsqrt(var.astype(real_dtype(wide)) + epsilon)
    s = scale.astype(wide) * inverse.astype(wide)
    return s, bias.astype(wide) - mean.astype(wide) * s


def _with_leading_axes(value: Array, ndim: int) -> Array:
    """Returns `value` with leading axes of size 1, so that it has rank `ndim`."""
    return jnp.expand_dims(value, tuple(range(ndim - value.ndim)))


def _per_output(value: Array, kernel: Array, outputs: tuple[int, ...]) -> Array:
    """Returns per-output values in a shape that broadcasts to the kernel."""
    _check_features(value, sizes(kernel.shape, outputs), kernel, "outputs")
    value = _with_leading_axes(value, len(outputs))
    return jnp.expand_dims(value, other_axes(outputs, kernel.ndim))


def _per_input(
    value: Array,
    kernel: Array,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    groups: int,
) -> Array:
    """Returns per-input values in a shape that broadcasts to the kernel."""
    shape = sizes(kernel.shape, inputs)
    if groups == 1:
        _check_features(value, shape, kernel, "inputs")
        value = _with_leading_axes(value, len(inputs))
        return jnp.expand_dims(value, other_axes(inputs, kernel.ndim))
    if len(inputs) != 1 or len(outputs) != 1 or kernel.shape[outputs[0]] % groups:
        raise ValueError(
            "with groups, the kernel must have one input axis and one output axis, and "
            "groups must divide the number of outputs, got "
            f"groups={groups}, in_axes {inputs} and out_axes {outputs} for a kernel of "
            f"shape {kernel.shape}. Pass the feature_group_count of the convolution."
        )
    _check_features(value, (groups * shape[0],), kernel, "inputs")
    # Input i of an output is input i of the group of that output.
    of_group = jnp.reshape(value, (groups, shape[0]))
    table = jnp.repeat(of_group, kernel.shape[outputs[0]] // groups, axis=0)
    if inputs < outputs:
        table = table.T
    return jnp.expand_dims(table, other_axes((*inputs, *outputs), kernel.ndim))


def _check_features(
    value: Array, shape: tuple[int, ...], kernel: Array, side: str
) -> None:
    """Raises ValueError unless a value has the shape of the layer's features."""
    if not value.ndim or value.shape != shape[len(shape) - value.ndim :]:
        raise ValueError(
            f"stats must have the shape of the layer's {side}, {shape} (of a kernel of "
            f"shape {kernel.shape}), or of the last of these axes, got {value.shape}. "
            "Check that the norm belongs to this layer. Pass norm_first=True if it "
            "precedes the layer, groups for a grouped convolution, and in_axes and "
            "out_axes for another layout of the kernel."
        )


def _check_exact(
    kernel_size: tuple[int, ...], padding: Padding | None, transposed: bool
) -> None:
    """Raises ValueError unless every output uses the whole kernel."""
    if not kernel_size:
        return
    if transposed:
        raise ValueError(
            "a norm to fold must not precede a transposed convolution, got "
            "transposed=True. The convolution inserts zeros between or around its "
            "normalized inputs, so its outputs would need different biases. With "
            "strides of 1 and circular padding there are no zeros: pass "
            'padding="CIRCULAR", transposed=False.'
        )
    if isinstance(padding, str):
        one = max(kernel_size) == 1 and padding in ("SAME", "CAUSAL")
        exact = one or padding == "VALID" or padding in _REPEATING
    else:
        exact = padding is not None and not any(jax.tree.leaves(padding))
    if not exact:
        raise ValueError(
            'padding must be "VALID", 0, "CIRCULAR" or "REFLECT" to fold a norm that '
            f"precedes a convolution exactly, got {padding!r} for a kernel of size "
            f"{kernel_size}. Padded zeros are not normalized, so outputs at the border "
            "would need another bias. Fold the norm into the layer before it, if there "
            "is one, or keep the norm."
        )
