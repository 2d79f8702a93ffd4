"""The names of the parameters of all layers together."""

from jaxnorm._layers import (
    batch,
    group,
    hybrid,
    pointwise,
    recurrent,
    response,
    rms,
    sample,
    segment,
    virtual,
)
from jaxnorm._layers.fields import Layer

_MODULES = (
    *(batch, group, hybrid, pointwise, recurrent, response),
    *(rms, sample, segment, virtual),
)


def parameter_names() -> set[str]:
    """Returns the names of all parameters that a layer may have."""
    return {
        name
        for module in _MODULES
        for layer in vars(module).values()
        if isinstance(layer, type) and issubclass(layer, Layer)
        for name in (*layer._optional, *layer._required)
    }
