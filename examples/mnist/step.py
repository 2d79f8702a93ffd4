"""One training step and one evaluation step, the same for every parallelism."""

import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from augment import random_shift
from data import Batch
from flax.training import train_state
from jax import lax


class TrainState(train_state.TrainState):
    """Parameters, optimizer state, and running statistics.

    Attributes:
      batch_stats: the collection of that name; empty without running statistics.
    """

    batch_stats: Any


class Sums(NamedTuple):
    """Sums over the examples of all devices; float32 scalars.

    They are sums, not means, because batches may have different numbers of examples.

    Attributes:
      loss: sum of the losses.
      correct: number of correctly classified examples.
      count: number of examples.
      bad: 1 if a loss, gradient or statistic was not finite in training.
    """

    loss: jax.Array
    correct: jax.Array
    count: jax.Array
    bad: jax.Array


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None,
    seed: int,
    max_shift: int = 0,
    skip_nonfinite: bool = True,
    reference: np.ndarray | None = None,
) -> tuple[TrainState, Sums]:
    """Updates the state with one batch.

    Args:
      state: the state before the step.
      batch: this device's part of the batch; the whole batch if `axis_name` is None.
      axis_name: the device axis over which the batch is divided, or None.
      seed: seed of shifts and dropout, which are functions of seed, step and row,
        whatever the device of a row.
      max_shift: largest random shift of images, in pixels.
      skip_nonfinite: whether to keep parameters, optimizer and statistics, on all
        devices, if a loss, gradient or statistic of any device is not finite. The
        examples of such a batch are not counted.
      reference: images of virtual batch norm, (R, 28, 28, 1) uint8, the same on all
        devices; None for other normalizers.

    Returns:
      The state after the step, and the sums of this batch.
    """
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch.rows)
    shift_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    images = random_shift(shift_keys, batch.images, max_shift)
    # Devices may hold different numbers of examples. So each divides its local sum by
    # the global count, and the results are summed; there is no mean of local means.
    count = _sum_over_devices(jnp.sum(batch.mask, dtype=jnp.float32), axis_name)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        variables |= collect_reference(params, reference, apply_fn=state.apply_fn)
        logits, updates = state.apply_fn(
            variables,
            images,
            mask=batch.mask,
            dropout_keys=dropout_keys,
            train=True,
            mutable=["batch_stats"],
        )
        sums = _local_sums(logits, batch)
        finite = _all_finite((sums.loss, updates))
        return sums.loss / count, (sums._replace(bad=_number(~finite)), updates)

    # The local loss is differentiated, and the gradients are summed afterwards, because
    # under pmap the gradient of a summed loss is too large by the number of devices.
    params = _per_device(state.params, axis_name)
    gradients, (sums, updates) = jax.grad(loss_fn, has_aux=True)(params)
    gradients, sums = _sum_over_devices((gradients, sums), axis_name)
    # Models without running statistics return no such collection.
    batch_stats = updates.get("batch_stats", state.batch_stats)
    after = state.apply_gradients(grads=gradients, batch_stats=batch_stats)

    # Decided from sums over devices, so that all devices make the same decision.
    bad = (sums.bad > 0) | ~_all_finite(gradients)
    if skip_nonfinite:
        keep_if_bad = partial(jax.tree.map, partial(jnp.where, bad))
        after = keep_if_bad(state, after).replace(step=after.step)
        sums = keep_if_bad(jax.tree.map(jnp.zeros_like, sums), sums)
    return after, sums._replace(bad=_number(bad))


def collect_reference(
    params: Any, images: np.ndarray | None, *, apply_fn
) -> dict[str, Any]:
    """Returns the collection `reference` that virtual batch norm needs.

    Args:
      params: the parameters; the moments of the reference batch depend on them, and
        gradients flow through the moments.
      images: the reference batch, or None.
      apply_fn: `apply` of the model.

    Returns:
      The collection `reference`; nothing if `images` is None.
    """
    if images is None:
        return {}
    # No dropout, so that the reference is always the same.
    _, reference = apply_fn(
        {"params": params}, images, train=False, mutable=["reference"]
    )
    return reference


def eval_step(
    variables: dict[str, Any], batch: Batch, *, apply_fn, axis_name: str | None
) -> Sums:
    """Returns the sums of one batch, normalized by the running statistics."""
    logits = apply_fn(variables, batch.images, mask=batch.mask, train=False)
    return _sum_over_devices(_local_sums(logits, batch), axis_name)


def _local_sums(logits: jax.Array, batch: Batch) -> Sums:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    correct = jnp.argmax(logits, axis=-1) == batch.labels
    return Sums(
        loss=jnp.sum(jnp.where(batch.mask, losses, 0)),
        correct=jnp.sum(batch.mask & correct, dtype=jnp.float32),
        count=jnp.sum(batch.mask, dtype=jnp.float32),
        bad=jnp.zeros(()),
    )


def _all_finite(tree) -> jax.Array:
    finite = (jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree))
    return functools.reduce(jnp.logical_and, finite)


def _number(truth: jax.Array) -> jax.Array:
    return truth.astype(jnp.float32)


def _sum_over_devices(tree, axis_name: str | None):
    return tree if axis_name is None else lax.psum(tree, axis_name)


def _per_device(params, axis_name: str | None):
    # shard_map knows that parameters are equal on all devices, and would sum their
    # gradients by itself, but pmap does not. Typed as varying, they are not summed.
    if axis_name is None:
        return params
    return lax.pcast(params, axis_name, to="varying")
