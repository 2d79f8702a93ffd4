"""Flax NNX modules over the functions of `jaxnorm`.

Those that `flax.nnx` has too are drop-in supersets of its classes: the same arguments,
defaults and variables.
"""

from jaxnorm.batch.lstm_step import LSTMCarry, MaskedInputs
from jaxnorm.nnx.adaptive_batch_norm import AdaptiveBatchNorm
from jaxnorm.nnx.batch_instance_norm import BatchInstanceNorm
from jaxnorm.nnx.batch_module import BatchMoment
from jaxnorm.nnx.batch_norm import BatchNorm
from jaxnorm.nnx.batch_norm_lstm import BatchNormLSTMCell
from jaxnorm.nnx.batch_renorm import BatchRenorm
from jaxnorm.nnx.collecting import collecting, set_batch_stats
from jaxnorm.nnx.domain_batch_norm import DomainBatchNorm
from jaxnorm.nnx.dynamic_tanh import DynamicTanh
from jaxnorm.nnx.evo_norm_b0 import EvoNormB0
from jaxnorm.nnx.evo_norm_s0 import EvoNormS0
from jaxnorm.nnx.filter_response_norm import FilterResponseNorm
from jaxnorm.nnx.freezing import freeze_batch_norms, freeze_statistics
from jaxnorm.nnx.gated_rms_norm import GatedRMSNorm
from jaxnorm.nnx.ghost_batch_norm import GhostBatchNorm
from jaxnorm.nnx.global_response_norm import GlobalResponseNorm
from jaxnorm.nnx.group_norm import GroupNorm
from jaxnorm.nnx.instance_batch_norm import InstanceBatchNorm
from jaxnorm.nnx.instance_norm import InstanceNorm
from jaxnorm.nnx.layer_norm import LayerNorm
from jaxnorm.nnx.mean_only_batch_norm import MeanOnlyBatchNorm
from jaxnorm.nnx.recurrent_batch_norm import RecurrentBatchNorm
from jaxnorm.nnx.replacing import replace_norms
from jaxnorm.nnx.restoring import restore_pure_dict
from jaxnorm.nnx.reversible_instance_norm import ReversibleInstanceNorm
from jaxnorm.nnx.rms_norm import RMSNorm
from jaxnorm.nnx.running_norm import RunningNorm
from jaxnorm.nnx.spectral_norm import SpectralNorm
from jaxnorm.nnx.switchable_norm import SwitchableNorm
from jaxnorm.nnx.unit_norm import UnitNorm
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
    "Reference",
    "ReversibleInstanceNorm",
    "RunningNorm",
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
