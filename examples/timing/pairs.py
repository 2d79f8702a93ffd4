"""Timing of functions in pairs, for machines whose speed drifts."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

SECONDS_A_SAMPLE = 0.01


def sample(function: Callable[[], Any], calls: int) -> float:
    """Returns the seconds per call, averaged over some calls.

    On an accelerator, calls are queued, so that it does not wait for the host. On a
    CPU, they are not, because they would compete for its cores.
    """
    queued = jax.default_backend() != "cpu"
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
        if not queued:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def interleaved(functions: list[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Returns `repeats` times of each function, measured alternately."""
    calls = []
    for function in functions:
        sample(function, 2)  # compiles
        calls.append(max(1, int(SECONDS_A_SAMPLE / sample(function, 2))))
    rounds = [
        [sample(f, n) for f, n in zip(functions, calls, strict=True)]
        for _ in range(repeats)
    ]
    return [list(times) for times in zip(*rounds, strict=True)]


def ratio(others: list[float], ours: list[float]) -> str:
    """Returns the median of the ratios of pairs, with their quartiles.

    Args:
      others: At least two times of another function.
      ours: Our times, measured alternately with them; the same list for a baseline.
    """
    if others is ours:
        return "1"
    pairs = [other / our for other, our in zip(others, ours, strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4, method="inclusive")
    verdict = ", open" if low <= 1 <= high else ""
    return f"{median:.2f} ({low:.2f} to {high:.2f}{verdict})"
