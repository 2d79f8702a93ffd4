"""Normalizers as Equinox modules, over the functions of `jaxnorm`.

A module normalizes a batch, not an example under `jax.vmap`; features are the last axis
unless told otherwise. Running statistics live in an `equinox.nn.State`, as those of
`equinox.nn.BatchNorm` do.
"""

from jaxnorm.equinox.batch import (
    AdaptiveBatchNorm,
    BatchNorm,
    BatchRenorm,
    EvoNormB0,
    GhostBatchNorm,
    MeanOnlyBatchNorm,
    RunningNorm,
)
from jaxnorm.equinox.hybrid import (
    BatchInstanceNorm,
    InstanceBatchNorm,
    SwitchableNorm,
)
from jaxnorm.equinox.recurrent import (
    DomainBatchNorm,
    RecurrentBatchNorm,
)
from jaxnorm.equinox.response import (
    DynamicErf,
    DynamicTanh,
    EvoNormS0,
    FilterResponseNorm,
    GlobalResponseNorm,
)
from jaxnorm.equinox.sample import (
    CausalGroupNorm,
    GatedRMSNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    ReversibleInstanceNorm,
    RMSNorm,
    SeedNorm,
    UnitNorm,
)
from jaxnorm.equinox.segment import GraphNorm, SegmentLayerNorm, SegmentRMSNorm

__all__ = [
    "AdaptiveBatchNorm",
    "BatchInstanceNorm",
    "BatchNorm",
    "BatchRenorm",
    "CausalGroupNorm",
    "DomainBatchNorm",
    "DynamicErf",
    "DynamicTanh",
    "EvoNormB0",
    "EvoNormS0",
    "FilterResponseNorm",
    "GatedRMSNorm",
    "GhostBatchNorm",
    "GlobalResponseNorm",
    "GraphNorm",
    "GroupNorm",
    "InstanceBatchNorm",
    "InstanceNorm",
    "LayerNorm",
    "MeanOnlyBatchNorm",
    "RMSNorm",
    "RecurrentBatchNorm",
    "ReversibleInstanceNorm",
    "RunningNorm",
    "SeedNorm",
    "SegmentLayerNorm",
    "SegmentRMSNorm",
    "SwitchableNorm",
    "UnitNorm",
]
