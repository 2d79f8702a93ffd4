"""Diagnosis of models that are good in training and bad in inference."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from jaxnorm.tools._apply import check_apply, collecting_moments
from jaxnorm.tools.layer_diagnosis import LayerDiagnosis, advise, compare_layer
from jaxnorm.tools.statistics import Tree, batch_stats_of, layers, path_text

Batch = TypeVar("Batch")
_GAP = 0.1  # as a fraction of the standard deviation of the outputs


class Diagnosis(NamedTuple):
    """The result of `diagnose`.

    Attributes:
      layers: The diagnosis of each layer, by its path joined with "/".
      output_gap: Root mean square of the difference between the outputs in training and
        in inference, divided by the standard deviation of the outputs in training; at
        least 0.
    """

    layers: dict[str, LayerDiagnosis]
    output_gap: float

    def explain(self) -> list[str]:
        """Returns sentences about unusual findings, the most serious first.

        There is at least one sentence.
        """
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
                " The running statistics fit this batch. So the difference comes from "
                "the model (dropout, a mode flag), or from the noise in the statistics "
                "of a small batch: try a larger batch."
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

    If a model is good in training but bad in evaluation, there are a few possible
    causes, which the statistics tell apart: running statistics that were never updated,
    or too few times for their momentum; data that differ from the training data; too
    small a batch; constant features. For each feature::

        mean_distance = |mean - running.mean| / sqrt(running.var + epsilon)
        std_ratio     = sqrt(var + epsilon) / sqrt(running.var + epsilon)
        condition     = |mean| / sqrt(var)

    mean and var are the batch statistics in training mode, in which an error in one
    layer does not affect the next.

    Args:
      apply: A function of variables, batch, and whether the model trains (jit it with
        this argument static). It returns the model's output and its collection
        `batch_moments`; it does not update statistics.
      variables: Variables for `apply`, with the running statistics under "batch_stats".
      batch: A batch of training or evaluation data; about a hundred examples or more.
      epsilon: Epsilon of the layers.

    Returns:
      The comparison for each layer and feature, and the distance of the outputs.

    Raises:
      TypeError: If `apply` is not a function or does not return a pair with an array
        first, or `variables` is not a dict.
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

    def run(train: bool) -> tuple[np.ndarray, Tree]:
        with collecting_moments(apply):
            found = apply(variables, batch, train)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                "apply must return a pair, the output of the model and its collection "
                f"batch_moments, got {type(found).__name__}. With "
                'mutable=["batch_moments"], model.apply returns both.'
            )
        if not hasattr(found[0], "dtype"):
            raise TypeError(
                "the output that apply returns must be an array, got "
                f"{type(found[0]).__name__}. Return one of several outputs."
            )
        return np.asarray(found[0], np.float64), found[1]

    trained, moments = run(True)
    collected = layers(moments)
    if missing := [path for path in running if path not in collected]:
        raise ValueError(
            "apply must collect the moments of each layer with running statistics, but "
            f"{path_text(missing[0])} collected none. Make the collection "
            '"batch_moments" mutable in apply, and check that training calls the layer '
            "and that it is a layer of jaxnorm. Flax's layers collect no moments: use "
            "jaxnorm's BatchNorm, which has the same variables."
        )
    inferred, _ = run(False)
    difference = np.sqrt(np.mean((trained - inferred) ** 2))
    return Diagnosis(
        {
            "/".join(map(str, path)): compare_layer(layer, collected[path], epsilon)
            for path, layer in running.items()
        },
        float(difference / max(trained.std(), np.finfo(np.float32).tiny)),
    )
