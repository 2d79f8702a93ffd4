"""Normalization of a stream by its moments so far."""

from collections.abc import Sequence

import jax
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, PyTree, Shaped

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.arguments.validation import check_epsilon, check_flags, check_number
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.running.running_moments import (
    RunningMoments,
)
from jaxnorm.batch.stream import Stream


def running_norm(
    x: PyTree[Inexact[Array, "..."]],
    moments: PyTree[RunningMoments],
    *,
    update: bool,
    feature_axes: Axes = -1,
    max_abs: float | None = None,
    max_count: int | float | None = None,
    epsilon: float = 1e-8,
    mask: PyTree[Shaped[Array, "..."]] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    skip_nonfinite: bool = False,
    dtype: DTypeLike | None = None,
) -> tuple[PyTree[Array], PyTree[RunningMoments]]:
    """Normalizes x by the moments of a stream so far.

    With `update`, the moments of the stream are first merged with the moments of x,
    over all axes but `feature_axes`, over `axis_name`, and under the mask. Then::

        y = clip((x - mean) / sqrt(var + epsilon), -max_abs, max_abs)

    with the new mean and variance. The merge is exact, for batches of any sizes and any
    variance between them. Each moment is stored as the sum of two numbers, so that
    after 1e8 elements a single element still counts, and the variance does not drift.
    The moments of x take two passes and two collectives, because its mean may be
    unknown.

    Use it for observations and returns in reinforcement learning, and for other inputs
    whose statistics are not known in advance. For activations in a network, use
    `jaxnorm.batch_norm`: here statistics are constants, without gradients.

    Args:
      x: Input of any shape, or a tree of inputs; floating or complex. Moments are
        computed in float32 or wider.
      moments: Moments of the stream, from
        `jaxnorm.init_running_moments(feature_shape)`; for a tree, a tree of them with
        the same structure. They must be the same on all instances of `axis_name`, and
        the new moments are too.
      update: Whether to update the moments: True in training, False in inference.
      feature_axes: The axis or axes, of each array, that keep their own moments;
        `tuple(range(1, x.ndim))` for each number of an observation, () for one mean of
        all elements.
      max_abs: y is clipped to [-max_abs, max_abs]; None: not clipped.
      max_count: The past has at most the weight of this many elements: older elements
        are forgotten exponentially. None: all elements have the same weight.
      epsilon: Added to the variance; at least 0. If both are 0, y is 0.
      mask: As in `jaxnorm.batch_norm`. For a tree: a tree of masks, or of None, in
        which one mask may stand for a subtree.
      axis_name: As in `jaxnorm.batch_norm`: mapped axes over which x is divided.
      axis_index_groups: As in `jaxnorm.batch_norm`.
      skip_nonfinite: Whether to ignore a batch whose moments are not finite (in a tree,
        an array). Otherwise a NaN stays in the moments forever.
      dtype: Dtype of y; by default the dtype of x.

    Returns:
      y, of the shape of x, and the new moments; `moments` themselves without `update`.
      Before the first element of a feature, its mean is 0 and its variance 1.

    Raises:
      TypeError: If x is an integer array, complex and clipped, or a flag is
        traced.
      ValueError: If a shape, an axis, the groups or the structures of trees do not fit,
        or a number is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Chan, Golub and LeVeque, 1979, Updating formulae and a pairwise algorithm for
      computing sample variances, section 2. Andrychowicz et al., 2021, What Matters for
      On-Policy Deep Actor-Critic Methods? (https://arxiv.org/abs/2006.05990), for
      observations.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> moments = jaxnorm.init_running_moments(1)
      >>> for x in (jnp.array([[0.0], [0.0]]), jnp.array([[4.0], [4.0]])):
      ...     y, moments = jaxnorm.running_norm(x, moments, update=True)
      >>> moments.mean, moments.var
      (Array([2.], dtype=float32), Array([4.], dtype=float32))
      >>> y.ravel()
      Array([1., 1.], dtype=float32)
    """
    check_flags(update=update, skip_nonfinite=skip_nonfinite)
    stream = Stream(
        update=update,
        feature_axes=feature_axes,
        max_abs=None if max_abs is None else check_number(max_abs, "max_abs", 0.0),
        max_count=None
        if max_count is None
        else check_number(max_count, "max_count", 0.0),
        epsilon=check_epsilon(epsilon),
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        skip_nonfinite=skip_nonfinite,
        dtype=dtype,
    )
    arguments = zip(
        jax.tree.leaves(x), _moments_of(x, moments), _masks_of(x, mask), strict=True
    )
    results = [stream.normalize(*each) for each in arguments]
    structure = jax.tree.structure(x)
    y = jax.tree.unflatten(structure, [y for y, _ in results])
    return y, jax.tree.unflatten(structure, [new for _, new in results])


def _moments_of(
    x: PyTree[Array], moments: PyTree[RunningMoments]
) -> list[RunningMoments]:
    """Returns the moments of each array.

    Raises:
      ValueError: If their structure is not that of the arrays.
    """
    found: list[RunningMoments] = []
    try:
        jax.tree.map(lambda _, own: found.append(own), x, moments)
    except ValueError as error:
        raise ValueError(
            "moments must have the structure of x, with init_running_moments(shape) in "
            f"place of each array, got {jax.tree.structure(moments)} for "
            f"{jax.tree.structure(x)}."
        ) from error
    return found


def _masks_of(x: PyTree[Array], mask: PyTree[Array] | None) -> list[Array | None]:
    """Returns the mask of each array.

    Raises:
      ValueError: If their structure is not a prefix of that of the arrays.
    """
    masks: list[Array | None] = []

    def repeat(mask: Array | None, part: PyTree[Array]) -> None:
        masks.extend([mask] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(repeat, mask, x, is_leaf=lambda node: node is None)
    except ValueError as error:
        raise ValueError(
            "mask must have the structure of x, or masks in place of subtrees of it, "
            f"got {jax.tree.structure(mask)} for {jax.tree.structure(x)}. Pass one "
            "mask for all arrays, or a tree like x."
        ) from error
    return masks
