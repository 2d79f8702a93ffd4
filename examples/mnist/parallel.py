"""Three ways to run one step on all devices: pmap, jit, and shard_map.

Each of the three functions returns a `Parallel`; the training loop is the same for all.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from data import Batch
from flax import jax_utils
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from step import Sums, TrainState

AXIS = "devices"


class Parallel(NamedTuple):
    """How steps run on several devices.

    Attributes:
      place_state: puts a state of the host on the devices.
      place_variables: puts a tree of the host on every device.
      place_batch: divides a batch of the host over the devices.
      train_step: `(state, batch) -> (state, sums)`, to be called or lowered; the state
        passed in is used up.
      eval_step: `(variables, batch) -> sums`, to be called or lowered.
      fetch: brings one device's copy of a replicated tree to the host.
      fetch_statistics: brings each device's copy of a state's `batch_stats` to the
        host, stacked along a leading axis of devices.
    """

    place_state: Callable[[TrainState], TrainState]
    place_variables: Callable[[Any], Any]
    place_batch: Callable[[Batch], Batch]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]]
    eval_step: Callable[[Any, Batch], Sums]
    fetch: Callable[[Any], Any]
    fetch_statistics: Callable[[TrainState], Any]


def with_pmap(
    devices: Sequence[jax.Device], train_step: Callable, eval_step: Callable, sync: bool
) -> Parallel:
    """Every device runs the program on its slice of a leading axis of devices."""
    del sync  # Each device has its own copy of everything, equal or not.
    batch_sharding = NamedSharding(_mesh(devices), P(AXIS))
    replicate = partial(jax_utils.replicate, devices=devices)
    pmap = partial(jax.pmap, axis_name=AXIS, devices=devices)
    return Parallel(
        place_state=replicate,
        place_variables=replicate,
        place_batch=lambda batch: jax.device_put(
            _deal(batch, len(devices)), batch_sharding
        ),
        train_step=pmap(partial(train_step, axis_name=AXIS), donate_argnums=0),
        eval_step=pmap(partial(eval_step, axis_name=AXIS)),
        fetch=lambda tree: jax.device_get(jax_utils.unreplicate(tree)),
        fetch_statistics=lambda state: jax.device_get(state.batch_stats),
    )


def with_jit(
    devices: Sequence[jax.Device], train_step: Callable, eval_step: Callable, sync: bool
) -> Parallel:
    """One program on the whole batch; the compiler divides it and communicates."""
    if not sync:
        raise ValueError("under jit, statistics are those of the whole batch")
    replicated = NamedSharding(_mesh(devices), P())
    place = partial(jax.device_put, device=replicated)
    return Parallel(
        place_state=place,
        place_variables=place,
        place_batch=partial(_place_rows, devices=devices),
        # Left to itself, the compiler may divide the new state as it likes, and the
        # next step would be another program.
        train_step=jax.jit(
            partial(train_step, axis_name=None),
            donate_argnums=0,
            out_shardings=replicated,
        ),
        eval_step=jax.jit(partial(eval_step, axis_name=None), out_shardings=replicated),
        fetch=jax.device_get,
        fetch_statistics=lambda state: _copies(state.batch_stats),
    )


def with_shard_map(
    devices: Sequence[jax.Device], train_step: Callable, eval_step: Callable, sync: bool
) -> Parallel:
    """Every device runs the program on its shard; types tell what is equal on all."""
    mesh = _mesh(devices)
    replicated = NamedSharding(mesh, P())
    per_device = NamedSharding(mesh, P(AXIS))
    step = partial(train_step, axis_name=AXIS)

    def equal_statistics_step(state, batch):
        state, sums = step(state, batch)
        equal = jax.tree.map(_as_equal, state.batch_stats)
        return state.replace(batch_stats=equal), sums

    def place_state(state):
        placed = jax.device_put(state, replicated)
        if sync:
            return placed
        # Statistics that differ need an axis along which they do.
        stacked = jax.tree.map(
            lambda x: np.stack([x] * len(devices)), state.batch_stats
        )
        return placed.replace(batch_stats=jax.device_put(stacked, per_device))

    def own_statistics_step(state, batch):
        own = jax.tree.map(lambda x: x[0], state.batch_stats)
        state, sums = step(state.replace(batch_stats=own), batch)
        stacked = jax.tree.map(lambda x: x[None], state.batch_stats)
        return state.replace(batch_stats=stacked), sums

    def sharded_train_step(state, batch):
        specs = state.replace(
            step=P(),
            params=P(),
            opt_state=P(),
            batch_stats=P() if sync else P(AXIS),
        )
        return jax.shard_map(
            equal_statistics_step if sync else own_statistics_step,
            mesh=mesh,
            in_specs=(specs, P(AXIS)),
            out_specs=(specs, P()),
        )(state, batch)

    return Parallel(
        place_state=place_state,
        place_variables=partial(jax.device_put, device=replicated),
        place_batch=partial(_place_rows, devices=devices),
        train_step=jax.jit(sharded_train_step, donate_argnums=0),
        eval_step=jax.jit(
            jax.shard_map(
                partial(eval_step, axis_name=AXIS),
                mesh=mesh,
                in_specs=(P(), P(AXIS)),
                out_specs=P(),
            )
        ),
        fetch=jax.device_get,
        fetch_statistics=lambda state: (
            _copies(state.batch_stats) if sync else jax.device_get(state.batch_stats)
        ),
    )


PARALLELISMS: dict[str, Callable[..., Parallel]] = {
    "pmap": with_pmap,
    "jit": with_jit,
    "shard_map": with_shard_map,
}


def statistics_axis(parallelism: str, sync: bool) -> str | None:
    """Returns the `axis_name` of normalizers: None under jit, or where not `sync`."""
    return AXIS if sync and parallelism != "jit" else None


def padded_size(batch_size: int, num_devices: int) -> int:
    """Returns the least multiple of `num_devices` that holds a batch."""
    return -(-batch_size // num_devices) * num_devices


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _deal(batch: Batch, num_devices: int) -> Batch:
    # As cards are dealt: in a short batch, padding comes last, and every device is to
    # have its share of the examples.
    return jax.tree.map(
        lambda x: np.stack([x[i::num_devices] for i in range(num_devices)]), batch
    )


def _place_rows(batch: Batch, devices: Sequence[jax.Device]) -> Batch:
    dealt = _deal(batch, len(devices))
    rows = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), dealt)
    return jax.device_put(rows, NamedSharding(_mesh(devices), P(AXIS)))


def _as_equal(statistic: jax.Array) -> jax.Array:
    # What a layer keeps of its weights, such as a singular vector, is equal on all
    # devices, yet typed as varying, since the weights were for their gradients' sake.
    if AXIS not in jax.typeof(statistic).manual_axis_type.varying:
        return statistic
    return lax.pmean(statistic, AXIS)


def _copies(tree: Any) -> Any:
    # Reads what each device holds, although all copies should be equal.
    return jax.tree.map(
        lambda x: np.stack([np.asarray(shard.data) for shard in x.addressable_shards]),
        tree,
    )
