"""Tools for whole models, which take and return trees of variables.

The trees are nested dicts of arrays, such as Flax's collections. The tools do not
depend on any framework.
"""

import warnings
from typing import Any

from jaxnorm.tools.accumulate import full_batch_value_and_grad
from jaxnorm.tools.batch_moments import apply_batch_moments, merge_batch_moments
from jaxnorm.tools.convert.haiku import norms_from_haiku, norms_to_haiku
from jaxnorm.tools.convert.insert import insert_variables
from jaxnorm.tools.convert.keras import norms_from_keras, norms_to_keras
from jaxnorm.tools.convert.momentum import (
    momentum_from_haiku,
    momentum_from_torch,
    momentum_to_torch,
)
from jaxnorm.tools.convert.nnx import variables_from_nnx, variables_to_nnx
from jaxnorm.tools.convert.torch import norms_from_torch, norms_to_torch
from jaxnorm.tools.convert.torch_weights import weights_from_torch, weights_to_torch
from jaxnorm.tools.diagnose import Diagnosis, diagnose
from jaxnorm.tools.fold_batch_norm import fold_batch_norm
from jaxnorm.tools.fold_model import Fold, fold_model
from jaxnorm.tools.freezing import freeze_parameters
from jaxnorm.tools.layer_diagnosis import LayerDiagnosis
from jaxnorm.tools.merge import merge_batch_stats
from jaxnorm.tools.normalization_mask import normalization_mask
from jaxnorm.tools.plots import diagnosis_figure, diagnosis_table
from jaxnorm.tools.recalibrate import recalibrate
from jaxnorm.tools.scale_offset import check_scales, shift_scales
from jaxnorm.tools.suggest_folds import suggest_folds
from jaxnorm.tools.unit_weights import unit_weights

__all__ = [
    "Diagnosis",
    "Fold",
    "LayerDiagnosis",
    "apply_batch_moments",
    "check_scales",
    "diagnose",
    "diagnosis_figure",
    "diagnosis_table",
    "fold_batch_norm",
    "fold_model",
    "freeze_parameters",
    "full_batch_value_and_grad",
    "insert_variables",
    "merge_batch_moments",
    "merge_batch_stats",
    "momentum_from_haiku",
    "momentum_from_torch",
    "momentum_to_torch",
    "normalization_mask",
    "norms_from_haiku",
    "norms_from_keras",
    "norms_from_torch",
    "norms_to_haiku",
    "norms_to_keras",
    "norms_to_torch",
    "recalibrate",
    "shift_scales",
    "suggest_folds",
    "unit_weights",
    "variables_from_nnx",
    "variables_to_nnx",
    "weights_from_torch",
    "weights_to_torch",
]


def __getattr__(name: str) -> Any:
    if name == "update_batch_stats":
        warnings.warn(
            "jaxnorm.tools.update_batch_stats was renamed to apply_batch_moments; the "
            "next release removes the old name.",
            DeprecationWarning,
            stacklevel=2,
        )
        return apply_batch_moments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
