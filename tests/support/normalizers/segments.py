"""Normalizers of segments."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import jaxnorm
from support.normalizers.entry import AFFINE, BIAS, Drawn, Layer, Param, of_example


def segments_of(x):
    """Ids in no order, of positions along two axes; one segment has none."""
    if not isinstance(x, jax.Array):  # an input that is refused
        return {"segment_ids": jnp.zeros(1, int), "num_segments": 1}
    rows, columns = (jnp.arange(size) for size in x.shape[:2])
    ids = (rows[:, None] + 2 * columns[None, :]) % 3
    return {"segment_ids": ids, "num_segments": 4}


def of_rows(norm):
    """For random calls: rows in segments, some of them in none; some segments empty."""

    def function(x, *params, **options):
        rows = np.arange(len(x), dtype=np.int32)
        ids = {"segment_ids": (rows * rows % 6 - 1), "num_segments": 4}
        return norm(x, *params, **options, **ids)

    return function


def of_segments(name, **fields):
    """An entry for one that normalizes segments, which are always the same."""
    function = getattr(jaxnorm, name)
    drawn = Drawn(
        "no batch",
        ("scale_offset",),
        function=of_rows(function),
        reference=of_rows(getattr(oracles, name)),
    )
    return of_example(function, beside=segments_of, drawn=drawn, **fields)


TABLE = {
    "graph_norm": of_segments(
        "graph_norm",
        params={"mean_scale": Param(0.7)} | AFFINE,
        layers={"GraphNorm": Layer()},
    ),
    "segment_layer_norm": of_segments(
        "segment_layer_norm", layers={"SegmentLayerNorm": Layer()}
    ),
    "segment_rms_norm": of_segments(
        "segment_rms_norm",
        params={"scale": BIAS},
        options={"scale_offset": 1.0},
        layers={"SegmentRMSNorm": Layer()},
    ),
}
