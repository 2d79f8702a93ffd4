"""Normalizers with the statistics of the batch."""

import jaxnorm
from support.normalizers.entry import (
    AFFINE,
    BIAS,
    STEPS,
    Drawn,
    Layer,
    Param,
    of_batch,
)

TABLE = {
    "batch_norm": of_batch(
        jaxnorm.batch_norm, layers={"BatchNorm": Layer(integers=True)}
    ),
    "batch_renorm": of_batch(
        jaxnorm.batch_renorm,
        state="renorm",
        options={"r_max": 1.1, "d_max": 0.2},
        takes_complex=False,
        drawn=Drawn(options=("r_max", "d_max")),
        layers={"BatchRenorm": Layer(integers=True)},
    ),
    "ghost_batch_norm": of_batch(
        jaxnorm.ghost_batch_norm,
        options={"virtual_batch_size": 2},
        drawn=Drawn("no batch", ("virtual_batch_size", "stats_rule")),
        layers={"GhostBatchNorm": Layer(integers=True)},
    ),
    "adaptive_batch_norm": of_batch(
        jaxnorm.adaptive_batch_norm,
        options={"strength": 0.5},
        takes_complex=False,
        drawn=Drawn("no batch", ("strength",)),
        layers={"AdaptiveBatchNorm": Layer(integers=True)},
    ),
    "mean_only_batch_norm": of_batch(
        jaxnorm.mean_only_batch_norm,
        params={"bias": BIAS},
        state="mean",
        powers={"bias": 1},
        layers={"MeanOnlyBatchNorm": Layer(integers=True)},
    ),
    "recurrent_batch_norm": of_batch(
        jaxnorm.recurrent_batch_norm,
        state="steps",
        beside=lambda x: {"step": 1},
        drawn=Drawn(options=("step",)),
        layers={
            "RecurrentBatchNorm": Layer({"max_steps": STEPS}, integers=True),
            "DomainBatchNorm": Layer({"num_domains": STEPS}, integers=True),
        },
    ),
    "evo_norm_b0": of_batch(
        jaxnorm.evo_norm_b0,
        params={"v": Param(1.0)} | AFFINE,
        state="var",
        takes_complex=False,
        drawn=Drawn("no batch"),
        layers={"EvoNormB0": Layer(integers=True)},
    ),
}
