"""Three ways to run one step on all devices: shard_map, jit, and pmap.

Each of the three functions returns a `Parallel`; the training loop is the same for all.
The devices may be those of several processes, each of which then runs this program and
holds the data of its own devices.
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
    """How steps run on several devices.

    Attributes:
      place_state: puts a state of the host on the devices. Where statistics are not
        synchronized, its `batch_stats` have a leading axis of devices.
      place_variables: puts a tree of the host on every device.
      place_batch: `(take, size) -> batch`, divides `size` rows over the devices, which
        must divide it; `take(rows)` makes the rows of one device.
      train_step: `(state, batch) -> (state, sums)`, to be called or lowered; the state
        passed in is used up.
      eval_step: `(variables, batch) -> sums`, to be called or lowered.
      fetch: brings one device's copy of a replicated tree to the host.
      fetch_statistics: brings each device's copy of a state's `batch_stats` to the
        host, stacked along a leading axis of devices.
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
    """Every device runs the program on its slice of a leading axis of devices."""
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
    """One program on the whole batch; the compiler divides it and communicates."""
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
        # Left to itself, the compiler may divide the new state as it likes, and the
        # next step would be another program.
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
    """Every device runs the program on its shard; types tell what is equal on all."""
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
    """Returns the `axis_name` of normalizers: None under jit, or where not `sync`."""
    return AXIS if sync and parallelism != "jit" else None


def padded_size(batch_size: int, num_devices: int) -> int:
    """Returns the least multiple of `num_devices` that holds a batch."""
    return -(-batch_size // num_devices) * num_devices


def stack(tree: Any, num_devices: int) -> Any:
    """Returns the tree with a leading axis of devices, along which all is equal."""
    return jax.tree.map(
        lambda x: np.broadcast_to(x, (num_devices, *np.shape(x))), jax.device_get(tree)
    )


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _deal(size: int, num_devices: int) -> np.ndarray:
    # Rows of each device, dealt like cards: in a short batch, padding comes last, and
    # every device is to have its share of the examples.
    return np.arange(size).reshape(-1, num_devices).T


def _place(tree: Any, sharding: Sharding) -> Any:
    # Each process places what its own devices hold.
    def place(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def _place_rows(
    take: Callable[[np.ndarray], Batch], rows: np.ndarray, sharding: Sharding
) -> Batch:
    # Each process reads the rows of its own devices, and no others.
    indices = sharding.addressable_devices_indices_map(rows.shape)
    shards = [
        jax.device_put(take(rows[index]), device) for device, index in indices.items()
    ]

    def join(*leaves):
        shape = (*rows.shape, *leaves[0].shape[rows.ndim :])
        return jax.make_array_from_single_device_arrays(shape, sharding, [*leaves])

    return jax.tree.map(join, *shards)


def _as_equal(path: tuple[Any, ...], statistic: jax.Array) -> jax.Array:
    # Spectral norm's u and sigma depend on the weights alone, so they are equal on all
    # devices, yet typed as varying, since the weights were for their gradients' sake.
    key = path[-1].key  # "Conv_0/kernel/u" in Linen, ("kernel", "u") in NNX
    name = key.split("/")[-1] if isinstance(key, str) else key[-1]
    return lax.pmean(statistic, AXIS) if name in ("u", "sigma") else statistic


def _shards(x: jax.Array) -> list[np.ndarray]:
    # What each device of this process holds, in the order of devices.
    return [np.asarray(shard.data) for shard in x.addressable_shards]


def _first_shard(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), tree)


def _gather_and_concatenate(tree: Any) -> Any:
    return jax.tree.map(lambda x: gather(np.concatenate(_shards(x))), tree)


def _gather_and_stack(tree: Any) -> Any:
    # Reads what each device holds, although all copies should be equal.
    return jax.tree.map(lambda x: gather(np.stack(_shards(x))), tree)
