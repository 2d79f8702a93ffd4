"""Tools for whole models: trees of variables in, trees of variables out.

They know nested dicts of arrays, as Flax's collections are, and no framework.
"""

from jaxnorm.tools.accumulate import full_batch_value_and_grad
from jaxnorm.tools.diagnose import Diagnosis, LayerDiagnosis, diagnose
from jaxnorm.tools.merge import merge_batch_stats
from jaxnorm.tools.recalibrate import recalibrate
from jaxnorm.tools.show import diagnosis_figure, diagnosis_table
from jaxnorm.tools.statistics import merge_batch_moments, update_batch_stats

__all__ = [
    "Diagnosis",
    "LayerDiagnosis",
    "diagnose",
    "diagnosis_figure",
    "diagnosis_table",
    "full_batch_value_and_grad",
    "merge_batch_moments",
    "merge_batch_stats",
    "recalibrate",
    "update_batch_stats",
]
