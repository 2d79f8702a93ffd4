"""The normalizers of `jaxnorm` as Flax Linen modules.

Classes that also exist in `flax.linen` are drop-in supersets: they have the same
arguments, defaults, variables and initialization.
"""

from jaxnorm.batch.lstm_step import LSTMCarry, MaskedInputs
from jaxnorm.linen import (
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
from jaxnorm.linen.batch import *
from jaxnorm.linen.batch_norm_lstm import *
from jaxnorm.linen.freezing import freeze_batch_norms, frozen_statistics
from jaxnorm.linen.hybrid import *
from jaxnorm.linen.recurrent import *
from jaxnorm.linen.replacing import replace_norms, replaced
from jaxnorm.linen.response import *
from jaxnorm.linen.sample import *
from jaxnorm.linen.segment import *
from jaxnorm.linen.spectral_norm import *
from jaxnorm.linen.virtual_batch_norm import *
from jaxnorm.linen.weight_norm import *
from jaxnorm.linen.weight_standardization import *

__all__ = [
    "LSTMCarry",
    "MaskedInputs",
    "freeze_batch_norms",
    "frozen_statistics",
    "replace_norms",
    "replaced",
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
