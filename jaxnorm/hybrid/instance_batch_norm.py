"""Instance-batch normalization, of IBN-Net."""

from typing import Unpack

from jax import Array
from jax import numpy as jnp
from jaxtyping import Inexact

from jaxnorm._core.arguments.axes import canonical_axis
from jaxnorm._core.arguments.validation import check_integer
from jaxnorm._core.arrays.sharding import shard_as, split
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.running.stats import Stats
from jaxnorm.batch.batch_norm import batch_norm
from jaxnorm.sample.instance_norm import instance_norm


def instance_batch_norm(
    x: Inexact[Array, "batch ..."],
    stats: Stats,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    instance_features: int,
    **options: Unpack[BatchOptions],
) -> tuple[Array, Stats]:
    """Applies instance norm to the first features and batch norm to the others.

    With `I = instance_features`::

        y[..., :I] = instance_norm(x[..., :I], scale[:I], bias[:I])
        y[..., I:] = batch_norm(x[..., I:], stats, scale[I:], bias[I:])

    IBN-a of the paper applies instance norm to half of the features, after the first
    convolution of each residual branch, in all but the last stage.

    Args:
      x: Input of shape (batch, ...), with one feature axis; floating or complex.
      stats: Running statistics of the batch part only, of shape
        (features - instance_features,).
      scale: (features,), or the rank of x with size 1 on shared axes; None means 1.
      bias: Same shapes as scale; None means 0.
      instance_features: Number of features that instance norm normalizes, from 0 to
        the number of features.
      **options: As in `jaxnorm.batch_norm`; `epsilon`, `feature_axes` (one axis),
        `mask` and `dtype` also apply to the instance part.

    Returns:
      y of the shape of x, and the new statistics; `stats` itself in inference. Takes
      one collective forward and one backward.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: If `instance_features` exceeds the number of features, or as in
        `jaxnorm.batch_norm`.

    Reference:
      Pan et al., 2018, Two at Once: Enhancing Learning and Generalization Capacities
      via IBN-Net, section 3.2 (https://arxiv.org/abs/1807.09441).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[[1.0, 1.0], [3.0, 3.0]], [[10.0, 9.0], [30.0, 11.0]]])
      >>> y, stats = jaxnorm.instance_batch_norm(
      ...     x, jaxnorm.init_batch_stats(1), instance_features=1, momentum=0.0,
      ...     use_running_average=False,
      ... )
      >>> y[..., 0].round(3), stats.mean
      (Array([[-1.,  1.],
             [-1.,  1.]], dtype=float32), Array([6.], dtype=float32))
    """
    call = BatchCall.from_options(x, scale, bias, options)
    axis = canonical_axis(options.get("feature_axes", -1), call.x.ndim)
    features = call.x.shape[axis]
    instance_features = check_instance_features(instance_features, features)

    def parts(value: Array) -> tuple[Array, Array]:
        if value.shape[axis] != features:  # one value for all features
            return value, value
        return split(value, instance_features, axis)

    inputs, scales, biases = parts(call.x), parts(call.scale), parts(call.bias)
    masks = (None, None) if call.mask is None else parts(call.mask)
    by_instance = instance_norm(
        inputs[0],
        scales[0],
        biases[0],
        feature_axes=axis,
        epsilon=call.spec.epsilon,
        mask=masks[0],
        allow_single_value=True,
        dtype=call.spec.dtype,
    )
    options |= {"mask": masks[1], "dtype": call.spec.dtype}
    by_batch, new = batch_norm(inputs[1], stats, scales[1], biases[1], **options)
    return shard_as(call.x, jnp.concatenate([by_instance, by_batch], axis)), new


def check_instance_features(instance_features: object, features: int) -> int:
    """Returns `instance_features` as an int, if it is from 0 to `features`.

    Raises:
      TypeError: If it is not a Python integer.
      ValueError: If it is negative or exceeds the number of features.
    """
    number = check_integer(instance_features, "instance_features")
    if not 0 <= number <= features:
        raise ValueError(
            f"instance_features must lie in [0, {features}], the number of features, "
            f"got {number}."
        )
    return number
