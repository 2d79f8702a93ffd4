"""Normalizers as Equinox modules, over the functions of `jaxnorm`.

A module normalizes a batch, not an example under `jax.vmap`; features are the last axis
unless told otherwise. Running statistics live in an `equinox.nn.State`, as those of
`equinox.nn.BatchNorm` do.
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
