"""Flax Linen modules over the functions of `jaxnorm`.

Those that `flax.linen` has too are drop-in supersets of its classes: the same
arguments, defaults, variables and initialization.
"""

from jaxnorm.batch.lstm_step import LSTMCarry, MaskedInputs
from jaxnorm.linen.adaptive_batch_norm import AdaptiveBatchNorm
from jaxnorm.linen.batch_instance_norm import BatchInstanceNorm
from jaxnorm.linen.batch_norm import BatchNorm
from jaxnorm.linen.batch_norm_lstm import BatchNormLSTMCell
from jaxnorm.linen.batch_renorm import BatchRenorm
from jaxnorm.linen.domain_batch_norm import DomainBatchNorm
from jaxnorm.linen.dynamic_tanh import DynamicTanh
from jaxnorm.linen.evo_norm_b0 import EvoNormB0
from jaxnorm.linen.evo_norm_s0 import EvoNormS0
from jaxnorm.linen.filter_response_norm import FilterResponseNorm
from jaxnorm.linen.freezing import freeze_batch_norms, frozen_statistics
from jaxnorm.linen.gated_rms_norm import GatedRMSNorm
from jaxnorm.linen.ghost_batch_norm import GhostBatchNorm
from jaxnorm.linen.global_response_norm import GlobalResponseNorm
from jaxnorm.linen.group_norm import GroupNorm
from jaxnorm.linen.instance_batch_norm import InstanceBatchNorm
from jaxnorm.linen.instance_norm import InstanceNorm
from jaxnorm.linen.layer_norm import LayerNorm
from jaxnorm.linen.mean_only_batch_norm import MeanOnlyBatchNorm
from jaxnorm.linen.recurrent_batch_norm import RecurrentBatchNorm
from jaxnorm.linen.replacing import replace_norms, replaced
from jaxnorm.linen.reversible_instance_norm import ReversibleInstanceNorm
from jaxnorm.linen.rms_norm import RMSNorm
from jaxnorm.linen.running_norm import RunningNorm
from jaxnorm.linen.spectral_norm import SpectralNorm
from jaxnorm.linen.switchable_norm import SwitchableNorm
from jaxnorm.linen.unit_norm import UnitNorm
from jaxnorm.linen.virtual_batch_norm import VirtualBatchNorm
from jaxnorm.linen.weight_norm import WeightNorm
from jaxnorm.linen.weight_standardization import WeightStandardization

__all__ = [
    "AdaptiveBatchNorm",
    "BatchInstanceNorm",
    "BatchNorm",
    "BatchNormLSTMCell",
    "BatchRenorm",
    "DomainBatchNorm",
    "DynamicTanh",
    "EvoNormB0",
    "EvoNormS0",
    "FilterResponseNorm",
    "GatedRMSNorm",
    "GhostBatchNorm",
    "GlobalResponseNorm",
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
