"""Three ways to run one step on all devices: shard_map, jit, and pmap.

Each of the three functions returns a `Parallel`; the training loop is the same for all.
The devices may belong to several processes. Each process runs this program and holds
the data of its devices.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from data import Batch
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from processes import gather
from step import Sums, TrainState

AXIS = "devices"


class Parallel(NamedTuple):
    """Functions that run steps on several devices.

    Attributes:
      place_state: copies a state from the host to the devices. If statistics are not
        synchronized, its `batch_stats` have a leading axis of devices.
      place_variables: copies a tree from the host to every device.
      place_batch: `(take, size) -> batch`, divides `size` rows over the devices, whose
        number must divide it; `take(rows)` returns the rows of one device.
      train_step: `(state, batch) -> (state, sums)`, to be called or lowered; it donates
        the state.
      eval_step: `(variables, batch) -> sums`, to be called or lowered.
      fetch: copies a replicated tree from one device to the host.
      fetch_statistics: copies the `batch_stats` of each device to the host, stacked
        along a leading axis of devices.
    """

    place_state: Callable[[TrainState], TrainState]
    place_variables: Callable[[Any], Any]
    place_batch: Callable[[Callable[[np.ndarray], Batch], int], Batch]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]]
    eval_step: Callable[[Any, Batch], Sums]
    fetch: Callable[[Any], Any]
    fetch_statistics: Callable[[TrainState], Any]


def with_pmap(
    devices: Sequence[jax.Device], train_step: Callable, eval_step: Callable, sync: bool
) -> Parallel:
    """Returns the functions for pmap, which splits a leading axis over the devices."""
    per_device = NamedSharding(_mesh(devices), P(AXIS))

    def replicate(tree):
        return _place(stack(tree, len(devices)), per_device)

    def place_state(state):
        if sync:
            return replicate(state)
        own = _place(state.batch_stats, per_device)
        return replicate(state.replace(batch_stats={})).replace(batch_stats=own)

    def place_batch(take, size):
        return _place_rows(take, _deal(size, len(devices)), per_device)

    pmap = partial(jax.pmap, axis_name=AXIS, devices=devices)
    return Parallel(
        place_state=place_state,
        place_variables=replicate,
        place_batch=place_batch,
        train_step=pmap(partial(train_step, axis_name=AXIS), donate_argnums=0),
        eval_step=pmap(partial(eval_step, axis_name=AXIS)),
        fetch=lambda tree: jax.tree.map(lambda x: x[0], _first_shard(tree)),
        fetch_statistics=lambda state: _gather_and_concatenate(state.batch_stats),
    )


def with_jit(
    devices: Sequence[jax.Device], train_step: Callable, eval_step: Callable, sync: bool
) -> Parallel:
    """Returns the functions for jit, where the compiler shards and communicates."""
    if not sync:
        raise ValueError("under jit, statistics are those of the whole batch")
    mesh = _mesh(devices)
    replicated = NamedSharding(mesh, P())
    place = partial(_place, sharding=replicated)

    def place_batch(take, size):
        rows = _deal(size, len(devices)).ravel()
        return _place_rows(take, rows, NamedSharding(mesh, P(AXIS)))

    return Parallel(
        place_state=place,
        place_variables=place,
        place_batch=place_batch,
        # Without this, the compiler may shard the new state in another way, and the
        # next step would be recompiled.
        train_step=jax.jit(
            partial(train_step, axis_name=None),
            donate_argnums=0,
            out_shardings=replicated,
        ),
        eval_step=jax.jit(partial(eval_step, axis_name=None), out_shardings=replicated),
        fetch=_first_shard,
        fetch_statistics=lambda state: _gather_and_stack(state.batch_stats),
    )


def with_shard_map(
    devices: Sequence[jax.Device], train_step: Callable, eval_step: Callable, sync: bool
) -> Parallel:
    """Returns the functions for shard_map, where each device runs on its shard."""
    mesh = _mesh(devices)
    replicated = NamedSharding(mesh, P())
    per_device = NamedSharding(mesh, P(AXIS))
    step = partial(train_step, axis_name=AXIS)

    def equal_statistics_step(state, batch):
        state, sums = step(state, batch)
        equal = jax.tree_util.tree_map_with_path(_as_equal, state.batch_stats)
        return state.replace(batch_stats=equal), sums

    def place_state(state):
        own = _place(state.batch_stats, replicated if sync else per_device)
        return _place(state, replicated).replace(batch_stats=own)

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

    def place_batch(take, size):
        return _place_rows(take, _deal(size, len(devices)).ravel(), per_device)

    fetch_statistics = _gather_and_stack if sync else _gather_and_concatenate
    return Parallel(
        place_state=place_state,
        place_variables=partial(_place, sharding=replicated),
        place_batch=place_batch,
        train_step=jax.jit(sharded_train_step, donate_argnums=0),
        eval_step=jax.jit(
            jax.shard_map(
                partial(eval_step, axis_name=AXIS),
                mesh=mesh,
                in_specs=(P(), P(AXIS)),
                out_specs=P(),
            )
        ),
        fetch=_first_shard,
        fetch_statistics=lambda state: fetch_statistics(state.batch_stats),
    )


PARALLELISMS: dict[str, Callable[..., Parallel]] = {
    "shard_map": with_shard_map,
    "jit": with_jit,
    "pmap": with_pmap,
}


def statistics_axis(parallelism: str, sync: bool) -> str | None:
    """Returns the `axis_name` of normalizers; None under jit or without `sync`."""
    return AXIS if sync and parallelism != "jit" else None


def padded_size(batch_size: int, num_devices: int) -> int:
    """Returns the smallest multiple of `num_devices` that is at least `batch_size`."""
    return -(-batch_size // num_devices) * num_devices


def stack(tree: Any, num_devices: int) -> Any:
    """Repeats each array of a tree along a new leading axis of devices."""
    return jax.tree.map(
        lambda x: np.broadcast_to(x, (num_devices, *np.shape(x))), jax.device_get(tree)
    )


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _deal(size: int, num_devices: int) -> np.ndarray:
    # Deals rows to devices in turn, like cards, so that the padding at the end of a
    # short batch is spread over all devices.
    return np.arange(size).reshape(-1, num_devices).T


def _place(tree: Any, sharding: Sharding) -> Any:
    # Each process places the arrays of its own devices.
    def place(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def _place_rows(
    take: Callable[[np.ndarray], Batch], rows: np.ndarray, sharding: Sharding
) -> Batch:
    # Each process reads only the rows of its own devices.
    indices = sharding.addressable_devices_indices_map(rows.shape)
    shards = [
        jax.device_put(take(rows[index]), device) for device, index in indices.items()
    ]

    def join(*leaves):
        shape = (*rows.shape, *leaves[0].shape[rows.ndim :])
        return jax.make_array_from_single_device_arrays(shape, sharding, [*leaves])

    return jax.tree.map(join, *shards)


def _as_equal(path: tuple[Any, ...], statistic: jax.Array) -> jax.Array:
    # u and sigma of spectral norm depend only on the weights, so they are equal on all
    # devices. Their type says varying, because the weights were cast for gradients.
    key = path[-1].key  # "Conv_0/kernel/u" in Linen, ("kernel", "u") in NNX
    name = key.split("/")[-1] if isinstance(key, str) else key[-1]
    return lax.pmean(statistic, AXIS) if name in ("u", "sigma") else statistic


def _shards(x: jax.Array) -> list[np.ndarray]:
    # Returns the shard of each device of this process, in the order of devices.
    return [np.asarray(shard.data) for shard in x.addressable_shards]


def _first_shard(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), tree)


def _gather_and_concatenate(tree: Any) -> Any:
    return jax.tree.map(lambda x: gather(np.concatenate(_shards(x))), tree)


def _gather_and_stack(tree: Any) -> Any:
    # Reads the copy of each device, although all copies should be equal.
    return jax.tree.map(lambda x: gather(np.stack(_shards(x))), tree)
