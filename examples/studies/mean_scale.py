"""Errors and times of batch norm for large means."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
import plots
from matplotlib.figure import Figure
from study import Finding, Point, Study

sys.path.append(str(Path(__file__).resolve().parents[1]))
import accuracy


def run(config: ml_collections.ConfigDict, points: list[Point]) -> Iterator[Finding]:
    """Yields the largest error against float64 by seed, and the time, at each point."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(config.shape, np.float32)
    for point in points:
        ratio = point["ratio"]
        normalize = jax.jit(accuracy.METHODS[point["method"]], static_argnums=1)
        errors = []
        for seed in range(config.seeds):
            x = accuracy.batch(ratio, seed)
            y = np.asarray(normalize(x, ratio), np.float64)
            errors.append(float(np.abs(y - accuracy.exact(x)).max()))
        timed = jax.device_put(noise + np.float32(ratio))
        seconds = []
        for _ in range(1 + config.repeats):  # the first run compiles
            begin = time.perf_counter()
            jax.block_until_ready(normalize(timed, ratio))
            seconds.append(time.perf_counter() - begin)
        milliseconds = 1e3 * min(seconds[1:])
        yield Finding(point, {"error": errors, "milliseconds": milliseconds})


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws errors over ratios, and the time of each method."""
    figure, [[errors, times]] = plots.new(
        "Batch norm where means are large, float32 against float64",
        columns=2,
        height=4.2,
    )
    methods = config.sweep.method
    for index, method in enumerate(methods):
        some = [f for f in findings if f.point["method"] == method]
        ratios = [f.point["ratio"] for f in some]
        plots.line(errors, ratios, [f.result["error"] for f in some], method, index)
        spent = [f.result["milliseconds"] for f in some]
        middle = float(np.median(spent))
        spread = [[middle - min(spent)], [max(spent) - middle]]
        times.barh(index, middle, color=plots.COLOURS[index], xerr=spread, capsize=3)
    errors.set(xscale="log", yscale="log", xlabel="abs(mean) / standard deviation")
    errors.set(ylabel="largest error of the output")
    shape = " x ".join(map(str, config.shape))
    times.set(xlabel=f"milliseconds for {shape};\nbars: from ratio to ratio")
    times.set_yticks(range(len(methods)), methods)
    times.invert_yaxis()
    plots.legend(figure, errors)
    return figure


STUDY = Study(
    question="When do one-pass statistics fail, and what do two passes cost?",
    run=run,
    draw=draw,
    choices={"method": accuracy.METHODS},
)
