"""Curves applied to each element in place of layer norm: dynamic tanh and erf."""

import functools
from collections.abc import Callable

import jax
from jax import Array, lax
from jax.typing import DTypeLike

from jaxnorm._core.arguments.align import align_affine, align_parameter
from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arrays.dtypes import accumulation_dtype, output_dtype
from jaxnorm._core.arrays.platforms import by_platform

_Curve = Callable[..., Array]


def apply_curve(
    curve: _Curve,
    x: Array,
    parameters: dict[str, Array],
    scale: Array | None,
    bias: Array | None,
    *,
    feature_axes: Axes,
    dtype: DTypeLike | None,
) -> Array:
    """Returns `curve(x, *parameters) * scale + bias` of each element.

    Args:
      curve: Applies to each element.
      x: Input, checked to be inexact.
      parameters: The parameters of the curve by name. These and the next arguments are
        as the user passed them.
      scale: See `jaxnorm.dynamic_tanh`.
      bias: See `jaxnorm.dynamic_tanh`.
      feature_axes: See `jaxnorm.dynamic_tanh`.
      dtype: See `jaxnorm.dynamic_tanh`.
    """
    features = canonical_axes(feature_axes, x.ndim)
    own = [align_parameter(p, name, x, features) for name, p in parameters.items()]
    result = output_dtype(dtype, x=x, scale=scale, bias=bias)
    scale, bias = align_affine(x, scale, bias, features)
    # Else the curve's values would be kept beside x, both in float32.
    apply = jax.checkpoint(functools.partial(_apply_curve, curve, result))
    return apply(x, *own, scale, bias)


def _apply_curve(
    curve: _Curve, result: DTypeLike, x: Array, *parameters: Array
) -> Array:
    """Returns the result of `apply_curve` for aligned parameters, scale and bias."""
    wide = accumulation_dtype(result, x.dtype)
    return _evaluate(curve, wide, x, *parameters).astype(result)


def _curve_and_affine(
    curve: _Curve, wide: DTypeLike, x: Array, *parameters: Array
) -> Array:
    """Returns `curve(x, *own) * scale + bias`, all in the dtype `wide`."""
    x, *own, scale, bias = (value.astype(wide) for value in (x, *parameters))
    return curve(x, *own) * scale + bias


_evaluate = jax.custom_jvp(_curve_and_affine, nondiff_argnums=(0, 1))


@_evaluate.defjvp
def _evaluate_jvp(
    curve: _Curve,
    wide: DTypeLike,
    primals: tuple[Array, ...],
    tangents: tuple[Array, ...],
) -> tuple[Array, Array]:
    """Differentiates in each argument with a separate copy of x.

    The backward pass sums for the parameters, over different axes, and not for x. XLA
    for GPUs computes them in several kernels. It would write the values of the curve,
    which all kernels need, to memory in float32, although each kernel reads x anyway.
    """
    x, *parameters = primals
    terms = []
    for i, copy in enumerate(_copies_for_kernels(x, len(primals))):
        arguments = [copy, *parameters]

        def of_one(value: Array, i: int = i, given: list[Array] = arguments) -> Array:
            return _curve_and_affine(curve, wide, *given[:i], value, *given[i + 1 :])

        terms.append(jax.jvp(of_one, (arguments[i],), (tangents[i],))[1])
    return _evaluate(curve, wide, *primals), functools.reduce(lax.add, terms)


def _copies_for_kernels(x: Array, number: int) -> tuple[Array, ...]:
    """Returns copies of x, which XLA for GPUs treats as different arrays.

    XLA removes the barriers once it has chosen the kernels, so that each reads x once.
    """

    def distinct(x: Array) -> tuple[Array, ...]:
        copies = [lax.optimization_barrier(x)]
        while len(copies) < number:  # equal barriers of one array would be merged
            copies.append(lax.optimization_barrier(copies[-1]))
        return tuple(copies)

    return by_platform(x, gpu=distinct, default=lambda x: (x,) * number)
