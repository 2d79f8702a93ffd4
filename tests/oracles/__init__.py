"""Every normalizer in float64 NumPy: the equations, with nothing clever.

With the arguments of the functions that they stand for. A mask is weights (bool and
integer: 0 and 1), and weighs the moments; a masked element that is not finite comes
out as the mean would, and an example or a group without valid elements as `bias`.
Examples lie along the first axis that is not a feature axis, space along the others.
`directional` gives derivatives.
"""

from oracles.batch import batch_norm, batch_norm_gradients, moments
from oracles.batch_family import (
    batch_renorm,
    ghost_batch_norm,
    mean_only_batch_norm,
    recurrent_batch_norm,
    renorm_corrections,
    running_norm,
    stream_moments,
)
from oracles.mixtures import (
    adaptive_batch_norm,
    batch_instance_norm,
    evo_norm_b0,
    instance_batch_norm,
    switchable_norm,
    virtual_batch_norm,
)
from oracles.parts import directional, error, wide
from oracles.sample import (
    causal_group_norm,
    dynamic_erf,
    dynamic_tanh,
    evo_norm_s0,
    filter_response_norm,
    gated_rms_norm,
    global_response_norm,
    group_norm,
    instance_norm,
    layer_norm,
    reversible_instance_norm,
    rms_norm,
    seed_norm,
    unit_norm,
)
from oracles.segments import graph_norm, segment_layer_norm, segment_rms_norm
from oracles.weight import (
    power_iteration,
    spectral_norm,
    standardize_weight,
    weight_norm,
)

__all__ = [
    "adaptive_batch_norm",
    "batch_instance_norm",
    "batch_norm",
    "batch_norm_gradients",
    "batch_renorm",
    "causal_group_norm",
    "directional",
    "dynamic_erf",
    "dynamic_tanh",
    "error",
    "evo_norm_b0",
    "evo_norm_s0",
    "filter_response_norm",
    "gated_rms_norm",
    "ghost_batch_norm",
    "global_response_norm",
    "graph_norm",
    "group_norm",
    "instance_batch_norm",
    "instance_norm",
    "layer_norm",
    "mean_only_batch_norm",
    "moments",
    "power_iteration",
    "recurrent_batch_norm",
    "renorm_corrections",
    "reversible_instance_norm",
    "rms_norm",
    "running_norm",
    "seed_norm",
    "segment_layer_norm",
    "segment_rms_norm",
    "spectral_norm",
    "standardize_weight",
    "stream_moments",
    "switchable_norm",
    "unit_norm",
    "virtual_batch_norm",
    "weight_norm",
    "wide",
]
