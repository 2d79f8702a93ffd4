"""The normalizers of `jaxnorm` as Flax NNX modules.

Classes that also exist in `flax.nnx` are drop-in supersets: they have the same
arguments, defaults and variables.
"""

from jaxnorm.batch.lstm_step import LSTMCarry, MaskedInputs
from jaxnorm.nnx import (
    batch,
    batch_norm_lstm,
    hybrid,
    recurrent,
    response,
    sample,
    segment,
    spectral_norm,
    virtual_batch_norm,
    weight_norm,
    weight_standardization,
)
from jaxnorm.nnx.batch import *
from jaxnorm.nnx.batch_module import BatchMoment
from jaxnorm.nnx.batch_norm_lstm import *
from jaxnorm.nnx.collecting import collecting, set_batch_stats
from jaxnorm.nnx.freezing import freeze_batch_norms, freeze_statistics
from jaxnorm.nnx.hybrid import *
from jaxnorm.nnx.recurrent import *
from jaxnorm.nnx.replacing import replace_norms
from jaxnorm.nnx.response import *
from jaxnorm.nnx.restoring import restore_pure_dict
from jaxnorm.nnx.sample import *
from jaxnorm.nnx.segment import *
from jaxnorm.nnx.spectral_norm import *
from jaxnorm.nnx.virtual_batch_norm import *
from jaxnorm.nnx.weight_norm import *
from jaxnorm.nnx.weight_standardization import *

__all__ = [
    "BatchMoment",
    "LSTMCarry",
    "MaskedInputs",
    "collecting",
    "freeze_batch_norms",
    "freeze_statistics",
    "replace_norms",
    "restore_pure_dict",
    "set_batch_stats",
]
__all__ += batch.__all__
__all__ += batch_norm_lstm.__all__
__all__ += hybrid.__all__
__all__ += recurrent.__all__
__all__ += response.__all__
__all__ += sample.__all__
__all__ += segment.__all__
__all__ += spectral_norm.__all__
__all__ += virtual_batch_norm.__all__
__all__ += weight_norm.__all__
__all__ += weight_standardization.__all__
