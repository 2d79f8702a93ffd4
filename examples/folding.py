"""Measures inference of the MNIST example's CNN before and after folding.

The batch norms, placed before the activation, are folded into the preceding layers.
Both models run alternately in one process.

  python examples/folding.py
  python examples/folding.py --batch=1024 --dtype=bfloat16 --repeats=100
"""

import functools
import runpy
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from benchmark import DTYPES, Row, Tree, show
from command_line import Parser, at_least
from timing.pairs import interleaved, ratio

from jaxnorm.tools import fold_model, suggest_folds

EXAMPLES = Path(__file__).resolve().parent
sys.path.insert(0, str(EXAMPLES / "mnist"))

from model import CNN, create_model  # noqa: E402

BATCHES = [1, 32, 256]
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}


def create(norm: str, dtype: str) -> CNN:
    """Returns the CNN with a normalizer, or with "none"."""
    config = runpy.run_path(str(EXAMPLES.parent / "configs" / "default.py"))
    config = config["get_config"]()
    with config.unlocked():
        config.update(
            norm=norm, norm_placement="before_activation", compute_dtype=dtype
        )
    return create_model(config, axis_name=None)


def draw_variables(model: CNN, images: jax.Array) -> Tree:
    """Returns initial variables with random changes, as after training."""
    rng = np.random.default_rng(0)
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0), images
    )

    def move(path: tuple, leaf: jax.Array) -> jax.Array:
        moved = rng.uniform(0.5, 2.0, leaf.shape)
        return leaf if path[-1].key == "kernel" else jnp.asarray(moved, leaf.dtype)

    return jax.tree_util.tree_map_with_path(move, variables)


def row(batch: int, dtype: str, repeats: int) -> Row:
    """Folds the model and measures both; returns a row."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (batch, 28, 28, 1)), jnp.uint8)
    model = create("batch", dtype)
    variables = draw_variables(model, images)
    infer = jax.jit(functools.partial(model.apply, train=False))
    bare = create("none", dtype)
    infer_folded = jax.jit(functools.partial(bare.apply, train=False))
    folded = fold_model(
        variables,
        suggest_folds(variables),
        apply=infer,
        folded_apply=infer_folded,
        batch=images,
        tolerance=TOLERANCE[dtype],
    )
    before, after = interleaved(
        [
            functools.partial(infer, variables, images),
            functools.partial(infer_folded, folded, images),
        ],
        repeats,
    )
    return {
        "batch": str(batch),
        "dtype": dtype,
        "with norms, ms": f"{1e3 * statistics.median(before):.3f}",
        "folded, ms": f"{1e3 * statistics.median(after):.3f}",
        "ratio": ratio(before, after),
    }


def rows(batches: list[int], dtypes: list[str], repeats: int) -> Iterator[Row]:
    """Yields a row for each batch and dtype."""
    for dtype in dtypes:
        for batch in batches:
            yield row(batch, dtype, repeats)


def main() -> None:
    """Parses the flags, measures, and prints the table."""
    parser = Parser(__doc__)
    parser.add_argument("--batch", action="append", type=at_least(1), help="images")
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument(
        "--repeats", type=at_least(2), default=30, help="pairs of samples"
    )
    flags = parser.parse_args()

    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind} ({device.platform})")
    print(
        "Ratios are the time with norms over the time without: the median of pairs\n"
        "(and quartiles). Above 1, folding helps; if the quartiles include 1, the\n"
        'comparison is "open".'
    )
    show(
        "Inference of the MNIST example's CNN",
        rows(flags.batch or BATCHES, flags.dtype or DTYPES, flags.repeats),
    )


if __name__ == "__main__":
    main()
