"""Runs the points of a sweep, all seeds at once, with few compilations."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import digits
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from study import Finding, Point, StudyError


def _batch_size(config: ml_collections.ConfigDict, point: Point) -> int:
    return point.get("batch_size", config.batch_size)


def over_seeds(
    build: Callable[..., Callable[..., dict[str, jax.Array]]],
    static: tuple[str, ...] = (),
    *,
    batch_size: Callable[[ml_collections.ConfigDict, Point], int] = _batch_size,
    compile_quickly: bool = False,
) -> Callable[[ml_collections.ConfigDict, list[Point]], Iterator[Finding]]:
    """Returns the `run` of a study that trains on digits.

    Args:
      build: `build(config, **values)` takes the values that `static` names, and returns
        a traceable function `f(digits, seed, **numbers)` of the other values of a
        point. The function returns arrays, which become lists with an entry per seed.
      static: names of the values that change the program. Points with equal values
        share a program.
      batch_size: `batch_size(config, point)` returns the number of examples per step;
        by default the value in the point or else in the configuration.
      compile_quickly: whether to compile with fewer optimizations on a CPU, in half of
        the time; for studies that take longer to compile than to run.

    Returns:
      `run(config, points)`, which raises StudyError if a batch is larger than the data.
    """

    def run(
        config: ml_collections.ConfigDict, points: list[Point]
    ) -> Iterator[Finding]:
        data = digits.load(config)
        size = config.points_at_once
        num_train = len(data.train.labels)
        for point in points:
            examples = batch_size(config, point)
            if not 1 <= examples <= num_train:
                raise StudyError(
                    f"a batch must have between 1 and the {num_train:,} training "
                    f"examples; one has {examples}"
                )

        options = {}
        if compile_quickly and jax.default_backend() == "cpu":
            options["xla_backend_optimization_level"] = 1

        def program(point: Point) -> list[Any]:
            return [point[name] for name in static]

        for _, group in itertools.groupby(sorted(points, key=_text(program)), program):
            group = list(group)
            function = build(config, **{name: group[0][name] for name in static})

            def of_pair(data, seed, numbers, function=function):
                return function(data, seed, **numbers)

            compiled = jax.jit(
                jax.vmap(of_pair, (None, 0, 0)),
                compiler_options=options,
            )
            for start in range(0, len(group), size):
                chunk = group[start : start + size]
                # All have the same shape, so that the last needs no compilation.
                filled = chunk + [chunk[-1]] * (size - len(chunk))
                numbers = {
                    name: jnp.repeat(
                        jnp.array([p[name] for p in filled], jnp.float32), config.seeds
                    )
                    for name in chunk[0].keys() - set(static)
                }
                seeds = jnp.tile(jnp.arange(config.seeds), size)
                results = jax.device_get(compiled(data, seeds, numbers))
                by_seed = jax.tree.map(
                    lambda x: np.reshape(x, (size, config.seeds, *x.shape[1:])), results
                )
                for i, point in enumerate(chunk):
                    yield Finding(point, {k: x[i].tolist() for k, x in by_seed.items()})

    return run


def _text(program: Callable[[Point], list[Any]]) -> Callable[[Point], str]:
    return lambda point: repr(program(point))
