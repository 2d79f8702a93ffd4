"""The normalizers of `jaxnorm` as Equinox modules.

A module normalizes a batch, not a single example under `jax.vmap`. By default, features
are the last axis. Running statistics are in an `equinox.nn.State`, as in
`equinox.nn.BatchNorm`.
"""

from jaxnorm.equinox import batch, hybrid, recurrent, response, sample, segment
from jaxnorm.equinox.batch import *
from jaxnorm.equinox.hybrid import *
from jaxnorm.equinox.recurrent import *
from jaxnorm.equinox.response import *
from jaxnorm.equinox.sample import *
from jaxnorm.equinox.segment import *

__all__: list[str] = []
__all__ += batch.__all__
__all__ += hybrid.__all__
__all__ += recurrent.__all__
__all__ += response.__all__
__all__ += sample.__all__
__all__ += segment.__all__
