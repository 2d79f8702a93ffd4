"""Virtual batch normalization: each example with a fixed reference batch."""

import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import Axes, batch_axis
from jaxnorm._core.arguments.validation import check_flags, check_scalar
from jaxnorm._core.arrays.sharding import where
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.moments.moments import Moments, check_moments, count_of_each
from jaxnorm._core.moments.total_variance import variance_of_two
from jaxnorm._core.reductions.masking import is_valid
from jaxnorm.batch.instances import compute_instance_moments


def virtual_batch_norm(
    x: Inexact[Array, "batch ..."],
    reference: Moments,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    reference_size: ArrayLike,
    include_self: bool = True,
    epsilon: float = 1e-5,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalizes each example as a member of a fixed reference batch.

    Let m_r and v_r be the moments of this layer's input over N reference examples, m_i
    and v_i the moments of the example over space, and w = 1 / (N + 1). Then::

        mean = (1 - w) m_r + w m_i
        var  = (1 - w) (v_r + (m_r - mean)^2) + w (v_i + (m_i - mean)^2)
        y    = (x - mean) / sqrt(var + epsilon) * scale + bias

    So the output of an example does not depend on the other examples of its batch,
    neither in training nor in inference, and there is no running average. After each
    update of the weights, another forward pass, of the reference batch, is needed, in
    which each layer calls `collect_reference`.

    Gradients flow through the moments of the example and through `reference`. To treat
    the reference as a constant, pass `jax.lax.stop_gradient(reference)`.

    Args:
      x: Input of shape (batch, ...); floating or complex.
      reference: Moments of the feature shape, from `collect_reference`. (Their mean is
        one number in float32. If it is 1e4 standard deviations, its rounding changes y
        by 6e-4.)
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      reference_size: Number N of reference examples; at least 1; may be traced.
      include_self: Whether the example contributes. False: w = 0, so that only the
        reference counts, as in evolution strategies.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      feature_axes: The axis or axes that keep their own statistics.
      mask: As in `jaxnorm.batch_norm`; an example without valid elements is normalized
        by the reference alone.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, or the reference is not a `Moments`.
      ValueError: If the reference has another number of features than x,
        reference_size is below 1, or a shape or an axis does not fit.

    Reference:
      Salimans et al., 2016, Improved Techniques for Training GANs, section 3.4
      (https://arxiv.org/abs/1606.03498).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> collect = jax.jit(jaxnorm.collect_reference)
      >>> _, reference, size = collect(jnp.array([[0.0], [2.0], [4.0]]))
      >>> normalize = jax.jit(jaxnorm.virtual_batch_norm)
      >>> y = normalize(jnp.array([[2.0], [100.0]]), reference, reference_size=size)
      >>> y[:, 0].round(2)
      Array([0.  , 1.73], dtype=float32)
    """
    check_flags(include_self=include_self)
    call = BatchCall.from_options(
        x,
        scale,
        bias,
        {
            "use_running_average": True,
            "epsilon": epsilon,
            "feature_axes": feature_axes,
            "mask": mask,
            "dtype": dtype,
        },
    )
    check_moments(reference, "reference")
    if jnp.shape(reference.mean) != call.feature_shape:
        raise ValueError(
            f"reference must have the feature shape {call.feature_shape}, got "
            f"{jnp.shape(reference.mean)}. Is it of the same layer?"
        )
    known = check_scalar(reference_size, "reference_size")
    if isinstance(known, np.ndarray) and not known >= 1:
        raise ValueError(f"reference_size must be at least 1, got {reference_size}.")
    size = jnp.asarray(reference_size)
    if not include_self:
        return call.normalize(reference.mean, reference.var)

    def include(call: BatchCall) -> Array:
        # Relative to the reference mean, whose gradient comes from x - mean.
        shift = call.align(reference.mean)
        own = compute_instance_moments(call, shift)
        weight = 1 / (size.astype(own.var.dtype) + 1)
        weight = where(own.count > 0, weight, jnp.zeros_like(weight))
        shift = shift.astype(own.delta.dtype)
        own = own.with_shift(shift)
        reference_var = call.align(reference.var).astype(own.var.dtype)
        var = variance_of_two(reference_var, own.var, own.delta, weight)
        delta = weight.astype(own.delta.dtype) * own.delta
        return call.normalize(delta, var, shift=shift)

    return call.rematerialize(include)


def collect_reference(
    x: Inexact[Array, "batch ..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    epsilon: float = 1e-5,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Array, Moments, Array]:
    """Normalizes the reference batch with its own statistics, and returns them.

    Each layer needs this pass before `virtual_batch_norm` can normalize other examples.
    y is the same as from `batch_norm` in training. Gradients flow through the moments.

    Args:
      x: The reference batch at this layer, of shape (batch, ...).
      scale: As in `jaxnorm.virtual_batch_norm`.
      bias: As in `jaxnorm.virtual_batch_norm`.
      epsilon: As in `jaxnorm.virtual_batch_norm`.
      feature_axes: As in `jaxnorm.virtual_batch_norm`.
      mask: As in `jaxnorm.virtual_batch_norm`.
      dtype: As in `jaxnorm.virtual_batch_norm`.

    Returns:
      y of the shape of x; and the arguments `reference`, the moments of x, and
      `reference_size`, the number of examples with a valid element.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: As in `jaxnorm.batch_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> y, reference, size = jaxnorm.collect_reference(jnp.array([[0.0], [2.0]]))
      >>> reference.mean, size
      (Array([1.], dtype=float32), Array(2., dtype=float32))
    """
    call = BatchCall.from_options(
        x,
        scale,
        bias,
        {
            "use_running_average": False,
            "epsilon": epsilon,
            "feature_axes": feature_axes,
            "mask": mask,
            "use_fast_variance": False,  # there is no running mean to shift by
            "dtype": dtype,
        },
    )
    moments = call.compute_moments(jnp.zeros(call.feature_shape, jnp.float32))
    examples = call.x.shape[batch_axis(call.features)]
    number = jnp.asarray(examples, jnp.float32)
    if call.mask is not None:
        valid = jnp.any(is_valid(call.mask), tuple(range(1, call.x.ndim)))
        valid = jnp.broadcast_to(valid, (examples,))
        number = jnp.sum(valid.astype(jnp.float32))
    reference = count_of_each(call.per_feature(moments))
    return call.standardize(moments), reference, number
