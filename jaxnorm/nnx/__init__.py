"""Flax NNX modules over the functions of `jaxnorm`.

Classes that `flax.nnx` has too are drop-in supersets: they have the same arguments,
defaults and variables.
"""

from jaxnorm.batch.lstm_step import LSTMCarry, MaskedInputs
from jaxnorm.nnx.batch import (
    AdaptiveBatchNorm,
    BatchNorm,
    BatchRenorm,
    EvoNormB0,
    GhostBatchNorm,
    MeanOnlyBatchNorm,
    RunningNorm,
)
from jaxnorm.nnx.batch_module import BatchMoment
from jaxnorm.nnx.batch_norm_lstm import BatchNormLSTMCell
from jaxnorm.nnx.collecting import collecting, set_batch_stats
from jaxnorm.nnx.freezing import freeze_batch_norms, freeze_statistics
from jaxnorm.nnx.hybrid import BatchInstanceNorm, InstanceBatchNorm, SwitchableNorm
from jaxnorm.nnx.recurrent import DomainBatchNorm, RecurrentBatchNorm
from jaxnorm.nnx.replacing import replace_norms
from jaxnorm.nnx.response import (
    DynamicErf,
    DynamicTanh,
    EvoNormS0,
    FilterResponseNorm,
    GlobalResponseNorm,
)
from jaxnorm.nnx.restoring import restore_pure_dict
from jaxnorm.nnx.sample import (
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
from jaxnorm.nnx.segment import GraphNorm, SegmentLayerNorm, SegmentRMSNorm
from jaxnorm.nnx.spectral_norm import SpectralNorm
from jaxnorm.nnx.virtual_batch_norm import Reference, VirtualBatchNorm
from jaxnorm.nnx.weight_norm import WeightNorm
from jaxnorm.nnx.weight_standardization import WeightStandardization

__all__ = [
    "AdaptiveBatchNorm",
    "BatchInstanceNorm",
    "BatchMoment",
    "BatchNorm",
    "BatchNormLSTMCell",
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
    "LSTMCarry",
    "LayerNorm",
    "MaskedInputs",
    "MeanOnlyBatchNorm",
    "RMSNorm",
    "RecurrentBatchNorm",
    "Reference",
    "ReversibleInstanceNorm",
    "RunningNorm",
    "SeedNorm",
    "SegmentLayerNorm",
    "SegmentRMSNorm",
    "SpectralNorm",
    "SwitchableNorm",
    "UnitNorm",
    "VirtualBatchNorm",
    "WeightNorm",
    "WeightStandardization",
    "collecting",
    "freeze_batch_norms",
    "freeze_statistics",
    "replace_norms",
    "restore_pure_dict",
    "set_batch_stats",
]
