"""Normalization for JAX with explicit state.

Pure functions; those whose statistics cross examples return `(y, new_stats)`. Flax
modules over them are in `jaxnorm.linen` and `jaxnorm.nnx`, Equinox modules in
`jaxnorm.equinox`, tools for whole models in `jaxnorm.tools`. Each is imported when it
is first used, with Flax or Equinox.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

from jaxnorm._core.arrays.rematerialization import (
    INPUT_NAME,
    MOMENTS_NAME,
    checkpoint_policy,
)
from jaxnorm._core.moments.moments import Moments, batch_moments, merge_moments
from jaxnorm._core.normalize import denormalize, normalize
from jaxnorm._core.running.momentum import warmup_momentum
from jaxnorm._core.running.running_moments import RunningMoments, init_running_moments
from jaxnorm._core.running.single_stats import (
    CountedMeanStats,
    CountedVarStats,
    MeanStats,
    VarStats,
    init_mean_stats,
    init_var_stats,
)
from jaxnorm._core.running.stats import (
    BatchStats,
    CountedBatchStats,
    init_batch_stats,
    update_batch_stats,
)
from jaxnorm.batch.adaptive_batch_norm import adaptive_batch_norm
from jaxnorm.batch.batch_norm import batch_norm
from jaxnorm.batch.batch_renorm import RenormStats, batch_renorm, init_renorm_stats
from jaxnorm.batch.evo_norm_b0 import evo_norm_b0
from jaxnorm.batch.ghost_batch_norm import ghost_batch_norm
from jaxnorm.batch.mean_only_batch_norm import mean_only_batch_norm
from jaxnorm.batch.recurrent_batch_norm import (
    init_recurrent_stats,
    recurrent_batch_norm,
)
from jaxnorm.batch.renorm_schedule import RenormBounds, warmup_renorm
from jaxnorm.batch.running_norm import running_norm
from jaxnorm.batch.virtual_batch_norm import collect_reference, virtual_batch_norm
from jaxnorm.hybrid.batch_instance_norm import batch_instance_norm
from jaxnorm.hybrid.gates import gate_projection, project_gates
from jaxnorm.hybrid.instance_batch_norm import instance_batch_norm
from jaxnorm.hybrid.switchable_norm import switchable_norm
from jaxnorm.sample.causal_group_norm import causal_group_norm
from jaxnorm.sample.dynamic_erf import dynamic_erf
from jaxnorm.sample.dynamic_tanh import dynamic_tanh
from jaxnorm.sample.evo_norm_s0 import evo_norm_s0
from jaxnorm.sample.filter_response_norm import filter_response_norm
from jaxnorm.sample.gated_rms_norm import gated_rms_norm
from jaxnorm.sample.global_response_norm import global_response_norm
from jaxnorm.sample.graph_norm import graph_norm
from jaxnorm.sample.group_norm import group_norm
from jaxnorm.sample.instance_norm import instance_norm
from jaxnorm.sample.layer_norm import layer_norm
from jaxnorm.sample.reversible_instance_norm import (
    Denormalizer,
    reversible_instance_norm,
)
from jaxnorm.sample.rms_norm import rms_norm
from jaxnorm.sample.seed_norm import seed_norm
from jaxnorm.sample.segment_layer_norm import segment_layer_norm
from jaxnorm.sample.segment_rms_norm import segment_rms_norm
from jaxnorm.sample.unit_norm import unit_norm
from jaxnorm.weight.spectral_norm import spectral_norm
from jaxnorm.weight.standardize_weight import standardize_weight
from jaxnorm.weight.weight_norm import init_weight_norm, weight_magnitude, weight_norm

if TYPE_CHECKING:
    from jaxnorm import linen as linen
    from jaxnorm import nnx as nnx
    from jaxnorm import tools as tools

    __version__: str

__all__ = [
    "INPUT_NAME",
    "MOMENTS_NAME",
    "BatchStats",
    "CountedBatchStats",
    "CountedMeanStats",
    "CountedVarStats",
    "Denormalizer",
    "MeanStats",
    "Moments",
    "RenormBounds",
    "RenormStats",
    "RunningMoments",
    "VarStats",
    "adaptive_batch_norm",
    "batch_instance_norm",
    "batch_moments",
    "batch_norm",
    "batch_renorm",
    "causal_group_norm",
    "checkpoint_policy",
    "collect_reference",
    "denormalize",
    "dynamic_erf",
    "dynamic_tanh",
    "evo_norm_b0",
    "evo_norm_s0",
    "filter_response_norm",
    "gate_projection",
    "gated_rms_norm",
    "ghost_batch_norm",
    "global_response_norm",
    "graph_norm",
    "group_norm",
    "init_batch_stats",
    "init_mean_stats",
    "init_recurrent_stats",
    "init_renorm_stats",
    "init_running_moments",
    "init_var_stats",
    "init_weight_norm",
    "instance_batch_norm",
    "instance_norm",
    "layer_norm",
    "mean_only_batch_norm",
    "merge_moments",
    "normalize",
    "project_gates",
    "recurrent_batch_norm",
    "reversible_instance_norm",
    "rms_norm",
    "running_norm",
    "seed_norm",
    "segment_layer_norm",
    "segment_rms_norm",
    "spectral_norm",
    "standardize_weight",
    "switchable_norm",
    "unit_norm",
    "update_batch_stats",
    "virtual_batch_norm",
    "warmup_momentum",
    "warmup_renorm",
    "weight_magnitude",
    "weight_norm",
]

_SUBPACKAGES = ("equinox", "linen", "nnx", "tools")

# A type checker that saw it would take every name for one of the package.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports a subpackage at its first use; says where else a name is."""
        if name == "__version__":
            return importlib.metadata.version("jaxnorm")
        if name in _SUBPACKAGES:
            return importlib.import_module(f"jaxnorm.{name}")
        message = f"module 'jaxnorm' has no attribute {name!r}."
        if not name.startswith("_"):
            known = {
                f"jaxnorm.{package}.{there}": there
                for package in _SUBPACKAGES[1:]  # Equinox need not be installed
                for there in importlib.import_module(f"jaxnorm.{package}").__all__
            }
            places = [place for place, there in known.items() if there == name]
            if not places:  # batchnorm, Batch_norm
                plain = name.replace("_", "").lower()
                known |= {f"jaxnorm.{here}": here for here in __all__}
                places = [
                    place
                    for place, there in known.items()
                    if there.replace("_", "").lower() == plain
                ]
            if places:
                message += f" Did you mean {' or '.join(places)}?"
        raise AttributeError(message, name=name)


def __dir__() -> list[str]:
    private = {name for name in globals() if name.startswith("_")}
    return sorted({*__all__, *_SUBPACKAGES, *private, "__version__"})
