"""A step on the devices of one or several processes; what it gives goes into a file.

    python one_step.py OUTPUT [COORDINATOR NUM_PROCESSES PROCESS_ID]

with examples/mnist on PYTHONPATH.

Every process takes part in each of the three parallelisms; the first one writes.
"""

import pickle
import runpy
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

ROOT = Path(__file__).resolve().parents[2]

NUM_DEVICES = 4
SIZE = 64


def batches(digits):
    """Returns functions that make rows of a batch, by name."""
    import data

    full = partial(data.take, digits, np.arange(SIZE))

    def half_empty(rows):
        # Nothing is left for the third and the fourth device, and for the process, or
        # the processes, that they belong to.
        batch = full(rows)
        return batch._replace(mask=rows % NUM_DEVICES < 2)

    # The last one leaves nothing for the fourth device.
    last = partial(data.take, digits, np.arange(3))
    return {"full": full, "half empty": half_empty, "last": last}


def compute(parallelism: str):
    """Returns gradients, statistics of every device, and sums; by name of the batch."""
    import data
    import model as narrow
    import train
    from model import create_model
    from parallel import PARALLELISMS, statistics_axis
    from step import eval_step, train_step

    default = runpy.run_path(str(ROOT / "configs" / "default.py"))
    config = default["get_config"]()
    config.max_shift, config.dropout_rate = 2, 0.3
    # A filter's gradient sums terms that cancel, in an order that depends on the
    # processor. XLA's float64 convolutions on CPUs are slow, so the layers are narrow.
    config.compute_dtype, narrow.WIDTHS = "float64", (4, 6, 8)
    digits, _ = data.load(config)
    model = create_model(config, statistics_axis(parallelism, sync=True))
    parallel = PARALLELISMS[parallelism](
        jax.devices()[:NUM_DEVICES],
        partial(train_step, seed=0, max_shift=config.max_shift),
        partial(eval_step, apply_fn=model.apply),
        True,
    )
    # With a learning rate of 1, parameters change by minus the gradient.
    start = jax.device_get(
        train.create_state(model, optax.sgd(1.0), 0, digits.images[:1])
    )
    step = None
    results = {}
    for name, take in batches(digits).items():
        state = parallel.place_state(start)
        batch = parallel.place_batch(take, SIZE)
        step = step or parallel.train_step.lower(state, batch).compile()
        state, sums = step(state, batch)
        after = parallel.fetch(state.params)
        gradients = jax.tree.map(np.subtract, start.params, after)
        statistics = parallel.fetch_statistics(state)
        results[name] = gradients, statistics, tuple(parallel.fetch(sums))
    return results


def main() -> None:
    """Joins the other processes, computes, and writes."""
    import processes

    output, *others = sys.argv[1:]
    num_processes = int(others[1]) if others else 1
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES // num_processes)
    if others:
        processes.start(others[0], num_processes, int(others[2]))
    # Otherwise most of the time would go into making fast what runs three times.
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_enable_x64", True)
    results = {
        parallelism: compute(parallelism)
        for parallelism in ("pmap", "jit", "shard_map")
    }
    if processes.is_first():
        Path(output).write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
