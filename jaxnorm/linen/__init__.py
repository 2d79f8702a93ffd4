"""Flax Linen modules over the functions of `jaxnorm`.

Classes that `flax.linen` has too are drop-in supersets: they have the same arguments,
defaults, variables and initialization.
"""

from jaxnorm.batch.lstm_step import LSTMCarry, MaskedInputs
from jaxnorm.linen.batch import (
    AdaptiveBatchNorm,
    BatchNorm,
    BatchRenorm,
    EvoNormB0,
    GhostBatchNorm,
    MeanOnlyBatchNorm,
    RunningNorm,
)
from jaxnorm.linen.batch_norm_lstm import BatchNormLSTMCell
from jaxnorm.linen.freezing import freeze_batch_norms, frozen_statistics
from jaxnorm.linen.hybrid import BatchInstanceNorm, InstanceBatchNorm, SwitchableNorm
from jaxnorm.linen.recurrent import DomainBatchNorm, RecurrentBatchNorm
from jaxnorm.linen.replacing import replace_norms, replaced
from jaxnorm.linen.response import (
    DynamicErf,
    DynamicTanh,
    EvoNormS0,
    FilterResponseNorm,
    GlobalResponseNorm,
)
from jaxnorm.linen.sample import (
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
from jaxnorm.linen.segment import GraphNorm, SegmentLayerNorm, SegmentRMSNorm
from jaxnorm.linen.spectral_norm import SpectralNorm
from jaxnorm.linen.virtual_batch_norm import VirtualBatchNorm
from jaxnorm.linen.weight_norm import WeightNorm
from jaxnorm.linen.weight_standardization import WeightStandardization

__all__ = [
    "AdaptiveBatchNorm",
    "BatchInstanceNorm",
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
    "freeze_batch_norms",
    "frozen_statistics",
    "replace_norms",
    "replaced",
]
