"""Measures how exact batch normalization is where means are large.

For each ratio of mean to standard deviation: the largest error of the normalized output
against float64, of float32 input. Warm: the running mean is within one standard
deviation of the batch's, as after some steps of training. Cold: it is still 0.

  python examples/accuracy.py
"""

from collections.abc import Callable

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.console
import rich.table

import jaxnorm

RATIOS = [0, 1, 10, 30, 1e2, 1e3, 1e4]
EXAMPLES, FEATURES = 4096, 8


def batch(ratio: float, seed: int = 0) -> np.ndarray:
    """Returns float32 examples whose mean is `ratio` standard deviations."""
    rng = np.random.default_rng(seed)
    return rng.normal(ratio, 1, (EXAMPLES, FEATURES)).astype("f4")


def exact(x: np.ndarray) -> np.ndarray:
    """Returns the normalized x in float64."""
    x = x.astype(np.float64)
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def ours(*, warm: bool, **options: bool) -> Callable[[np.ndarray, float], jax.Array]:
    """Batch norm of this package."""

    def normalize(x: np.ndarray, ratio: float) -> jax.Array:
        stats = jaxnorm.init_batch_stats(x.shape[-1])
        if warm:
            stats = stats._replace(mean=jnp.full(x.shape[-1], ratio + 1.0))
        y, _ = jaxnorm.batch_norm(
            jnp.asarray(x), stats, use_running_average=False, **options
        )
        return y

    return normalize


def flax_norm(**options: bool) -> Callable[[np.ndarray, float], jax.Array]:
    """Batch norm of `flax.linen`, which has no use for the running statistics."""

    def normalize(x: np.ndarray, ratio: float) -> jax.Array:
        norm = flax.linen.BatchNorm(use_running_average=False, **options)
        y, _ = norm.init_with_output(jax.random.key(0), x)
        return y

    return normalize


METHODS = {
    "jaxnorm, warm": ours(warm=True),
    "jaxnorm, cold": ours(warm=False),
    "jaxnorm, cold, two passes": ours(warm=False, use_fast_variance=False),
    "flax.linen": flax_norm(),
    "flax.linen, two passes": flax_norm(use_fast_variance=False),
}


def main() -> None:
    """Measures and prints."""
    table = rich.table.Table(
        "mean / std", *(f"{ratio:g}" for ratio in RATIOS), box=rich.box.MARKDOWN
    )
    for name, normalize in METHODS.items():
        errors = []
        for ratio in RATIOS:
            x = batch(ratio)
            y = np.asarray(jax.jit(normalize, static_argnums=1)(x, ratio), np.float64)
            errors.append(f"{np.abs(y - exact(x)).max():.0e}")
        table.add_row(name, *errors)
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
