"""Measures the errors of batch and layer normalization for large means.

For each ratio of mean to standard deviation, prints the largest error of the normalized
output against float64, for float32 input. "Warm" means that the running mean is within
one standard deviation of the batch mean, as after a few training steps. "Cold" means
that it is still 0.

  python examples/accuracy.py
  python examples/accuracy.py --figures=examples/figures  # figures of the README
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import flax.linen
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import rich.box
import rich.console
import rich.table
from command_line import Parser

import jaxnorm

RATIOS = [0, 1, 10, 30, 1e2, 1e3, 1e4]
EXAMPLES, FEATURES = 4096, 8


def batch(ratio: float, seed: int = 0) -> np.ndarray:
    """Returns float32 examples with a mean of `ratio` standard deviations."""
    rng = np.random.default_rng(seed)
    return rng.normal(ratio, 1, (EXAMPLES, FEATURES)).astype("f4")


def exact(x: np.ndarray) -> np.ndarray:
    """Returns the normalized x in float64."""
    x = x.astype(np.float64)
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def ours(*, warm: bool, **options: bool) -> Callable[[np.ndarray, float], jax.Array]:
    """Returns batch norm of this package."""

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
    """Returns batch norm of `flax.linen`, which ignores running statistics here."""

    def normalize(x: np.ndarray, ratio: float) -> jax.Array:
        norm = flax.linen.BatchNorm(use_running_average=False, **options)
        y, _ = norm.init_with_output(jax.random.key(0), x)
        return y

    return normalize


def of_columns(norm: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Returns a per-example norm that normalizes each column as one example."""
    return lambda x, ratio: norm(jnp.asarray(x).T).T


def flax_layer_norm(x: jax.Array) -> jax.Array:
    """Normalizes x with layer norm of `flax.linen`."""
    norm = flax.linen.LayerNorm(epsilon=1e-5)
    return norm.init_with_output(jax.random.key(0), x)[0]


METHODS = {
    "jaxnorm, warm": ours(warm=True),
    "jaxnorm, cold": ours(warm=False),
    "jaxnorm, cold, two passes": ours(warm=False, use_fast_variance=False),
    "flax.linen": flax_norm(),
    "flax.linen, two passes": flax_norm(use_fast_variance=False),
    "jaxnorm, layer norm": of_columns(partial(jaxnorm.layer_norm, epsilon=1e-5)),
    "flax.linen, layer norm": of_columns(flax_layer_norm),
}


def largest_error(normalize: Callable[..., jax.Array], ratio: float) -> float:
    """Returns the largest error of all elements of the output."""
    x = batch(ratio)
    y = np.asarray(jax.jit(normalize, static_argnums=1)(x, ratio), np.float64)
    return float(np.abs(y - exact(x)).max())


PANELS = {
    "Batch norm, after the first steps": {
        "jaxnorm": "jaxnorm, warm",
        "flax.linen": "flax.linen",
    },
    "Layer norm": {
        "jaxnorm": "jaxnorm, layer norm",
        "flax.linen": "flax.linen, layer norm",
    },
}
# Text and line colors for light and dark pages; the lines use the color-blind safe
# colors of Okabe and Ito that contrast with the page.
THEMES = {
    "accuracy.svg": ("#1f2328", {"jaxnorm": "#0072b2", "flax.linen": "#d55e00"}),
    "accuracy_dark.svg": ("#d1d7e0", {"jaxnorm": "#56b4e9", "flax.linen": "#e69f00"}),
}


def draw(errors: dict[str, list[float]], directory: Path) -> None:
    """Draws the errors of both libraries with default options."""
    for file, (ink, colors) in THEMES.items():
        inks = ("text.color", "axes.edgecolor", "axes.labelcolor")
        inks += ("xtick.color", "ytick.color")
        as_text = {"svg.fonttype": "none", "svg.hashsalt": file}
        with plt.rc_context({**dict.fromkeys(inks, ink), **as_text}):
            figure, panels = plt.subplots(1, 2, figsize=(7, 2.9), sharey=True)
            for panel, (title, lines) in zip(panels, PANELS.items(), strict=True):
                for library, name in lines.items():
                    # A logarithmic axis cannot show 0.
                    x, y = RATIOS[1:], errors[name][1:]
                    marker = "o" if library == "jaxnorm" else "s"
                    panel.loglog(x, y, marker, ls="-", color=colors[library], lw=2)
                    panel.minorticks_off()
                    panel.annotate(
                        library,
                        (x[-2], y[-2]),
                        xytext=(0, 8) if library == "jaxnorm" else (-8, 4),
                        textcoords="offset points",
                        ha="center" if library == "jaxnorm" else "right",
                        color=colors[library],
                        weight="bold",
                    )
                panel.set_title(title, fontsize=10)
                panel.set_xlabel("mean / standard deviation of the input")
                panel.spines[["top", "right"]].set_visible(False)
                panel.grid(alpha=0.2, color=ink)
            panels[0].set_ylabel("largest error of the output")
            figure.suptitle("Outputs stay exact however large the mean", weight="bold")
            figure.tight_layout()
            figure.savefig(directory / file, transparent=True, metadata={"Date": None})
            plt.close(figure)


def main() -> None:
    """Measures and prints errors, and draws figures with `--figures`."""
    parser = Parser(__doc__)
    parser.add_argument("--figures", type=Path, help="a directory to draw into")
    figures = parser.parse_args().figures
    if figures:
        try:
            figures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--figures={figures} cannot be made: {error}")
    errors = {
        name: [largest_error(normalize, ratio) for ratio in RATIOS]
        for name, normalize in METHODS.items()
    }
    table = rich.table.Table(
        "mean / std", *(f"{ratio:g}" for ratio in RATIOS), box=rich.box.MARKDOWN
    )
    for name, row in errors.items():
        table.add_row(name, *(f"{error:.0e}" for error in row))
    rich.console.Console(width=120).print(table)
    if figures:
        draw(errors, figures)


if __name__ == "__main__":
    main()
