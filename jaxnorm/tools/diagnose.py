"""What the statistics of a model's layers say about training and inference."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from jaxnorm.tools._apply import check_apply, collecting_moments
from jaxnorm.tools.layer_diagnosis import LayerDiagnosis, advise, compare_layer
from jaxnorm.tools.statistics import Tree, batch_stats_of, layers, path_text

Batch = TypeVar("Batch")
_GAP = 0.1  # of the outputs' standard deviation


class Diagnosis(NamedTuple):
    """What `diagnose` found.

    Attributes:
      layers: By the layer's path, joined by "/".
      output_gap: Root mean square of the difference between the outputs in training and
        in inference, over the standard deviation of those in training; 0 and up.
    """

    layers: dict[str, LayerDiagnosis]
    output_gap: float

    def explain(self) -> list[str]:
        """Returns in words what is unusual, the gravest first; at least one line."""
        found = advise(self.layers)
        if self.output_gap <= _GAP:
            return [
                *found,
                "Training and inference agree: their outputs differ by "
                f"{self.output_gap:.2g} of their standard deviation.",
            ]
        lead = (
            f"Outputs in training and in inference differ by {self.output_gap:.2g} of "
            "their standard deviation."
        )
        if not found:
            lead += (
                " The running statistics fit this batch, so what differs is in the "
                "model (dropout, a mode flag), or the noise of the statistics of a "
                "small batch: try a larger one."
            )
        return [lead, *found]


def diagnose(
    apply: Callable[[Tree, Batch, bool], tuple[jax.Array, Tree]],
    variables: Tree,
    batch: Batch,
    *,
    epsilon: float = 1e-5,
) -> Diagnosis:
    """Compares each layer's running statistics with those of a batch.

    The usual "training is good, evaluation is bad" has few causes, and they can be told
    apart: running statistics that were never updated, or too few times for their
    momentum; data unlike those of training; a batch too small; features that are
    constant. For each feature::

        mean_distance = |mean - running.mean| / sqrt(running.var + epsilon)
        std_ratio     = sqrt(var + epsilon) / sqrt(running.var + epsilon)
        condition     = |mean| / sqrt(var)

    mean and var being the batch's in training mode, where what goes wrong in one layer
    does not reach the next.

    Args:
      apply: A function of variables, batch and whether it trains (jit it with that
        argument static) that returns the model's output and its collection
        `batch_moments`; statistics are not updated.
      variables: What `apply` takes, with the running statistics under "batch_stats".
      batch: As in training or in evaluation; some hundred examples.
      epsilon: Of the layers.

    Returns:
      The comparison, by layer and feature, and how far the outputs are apart.

    Raises:
      TypeError: If `apply` is not a function or does not return two things, or
        `variables` is not a dict.
      ValueError: If there are no running statistics, or a layer collects no moments.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen, jaxnorm.tools
      >>> model = jaxnorm.linen.BatchNorm()
      >>> x = jnp.array([[1.0], [5.0]])
      >>> variables = model.init(jax.random.key(0), x, use_running_average=True)
      >>> def apply(variables, batch, train):
      ...     y, moments = model.apply(
      ...         variables,
      ...         batch,
      ...         use_running_average=not train,
      ...         mutable=["batch_moments"],
      ...     )
      ...     return y, moments.get("batch_moments", {})
      >>> diagnosis = jaxnorm.tools.diagnose(apply, variables, x)
      >>> diagnosis.layers[""].mean_distance.round(2)
      array([3.])
      >>> print(diagnosis.explain()[1][:52])
      The running statistics were never updated: mean 0 an
    """
    check_apply(
        apply, "apply", "a function of variables, batch and whether the model trains"
    )
    running = layers(batch_stats_of(variables))
    with collecting_moments(apply):
        found = apply(variables, batch, True)
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            "apply must return a tuple of two, the output of the model and its "
            f"collection batch_moments, got {type(found).__name__}. With "
            'mutable=["batch_moments"], model.apply returns both.'
        )
    outputs, moments = found
    collected = layers(moments)
    if missing := [path for path in running if path not in collected]:
        raise ValueError(
            f"{path_text(missing[0])} collected no moments. Is the "
            'collection "batch_moments" mutable in apply, does training use the layer, '
            "and is it one of jaxnorm's? Flax's own collect none; take "
            "jaxnorm's BatchNorm, which has the same variables."
        )
    trained, inferred = (
        np.asarray(y, np.float64) for y in (outputs, apply(variables, batch, False)[0])
    )
    difference = np.sqrt(np.mean((trained - inferred) ** 2))
    return Diagnosis(
        {
            "/".join(map(str, path)): compare_layer(layer, collected[path], epsilon)
            for path, layer in running.items()
        },
        float(difference / max(trained.std(), np.finfo(np.float32).tiny)),
    )
