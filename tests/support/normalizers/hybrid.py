"""Mixtures of batch norm and the norms of each example."""

import jaxnorm
from support.normalizers.entry import AFFINE, Drawn, Layer, Param, of_batch

LOGITS = Param(0.0, (3,), 1.0)
TABLE = {
    "switchable_norm": of_batch(
        jaxnorm.switchable_norm,
        params={"mean_logits": LOGITS, "var_logits": LOGITS} | AFFINE,
        drawn=Drawn("no batch"),
        layers={"SwitchableNorm": Layer(integers=True)},
    ),
    "batch_instance_norm": of_batch(
        jaxnorm.batch_instance_norm,
        params={"gate": Param(0.5, std=0.1)} | AFFINE,
        drawn=Drawn("no batch"),
        layers={"BatchInstanceNorm": Layer(integers=True)},
    ),
    "instance_batch_norm": of_batch(
        jaxnorm.instance_batch_norm,
        options={"instance_features": 1},
        drawn=Drawn("one", ("instance_features",)),
        layers={"InstanceBatchNorm": Layer(integers=True)},
    ),
}
