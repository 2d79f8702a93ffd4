"""What the statistics of a model's layers say about training and inference."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from jaxnorm.tools.statistics import Tree, batch_stats_of, layers, named

Batch = TypeVar("Batch")

# Beyond these a layer is spoken of.
FAR = 1.0  # standard deviations between the means
RATIO = 1.5  # of the standard deviations, either way
_CONDITION = 1e3  # of mean and standard deviation
_GAP = 0.1  # of the outputs' standard deviation


class LayerDiagnosis(NamedTuple):
    """One layer's running statistics beside those of a batch, feature by feature.

    All are NumPy arrays of the shape of the statistics, in float64.

    Attributes:
      mean_distance: `|batch mean - running mean|` in running standard deviations; 0
        and up. NaN for a layer that keeps no mean.
      std_ratio: Standard deviation of the batch over the running one; above 0. NaN for
        a layer that keeps no variance.
      condition: `|mean| / standard deviation` of the batch; 0 and up, infinite for a
        constant.
      dead: Whether the batch's variance is at most epsilon, so that the output is
        little but the bias.
      untouched: Whether the running statistics are still those of initialization, mean
        0 and variance 1.
      finite: Whether the running statistics are finite.
    """

    mean_distance: np.ndarray
    std_ratio: np.ndarray
    condition: np.ndarray
    dead: np.ndarray
    untouched: np.ndarray
    finite: np.ndarray

    @property
    def ill_conditioned(self) -> np.ndarray:
        """Whether it is no constant, and its mean above 1,000 standard deviations."""
        return (self.condition > _CONDITION) & ~self.dead


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
        found = []
        for tell in (_not_finite, _untouched, _far, _unlike, _dead, _ill_conditioned):
            found += tell(self.layers)
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
      TypeError: If `variables` are no dict.
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
    running = layers(batch_stats_of(variables))
    outputs, moments = apply(variables, batch, True)
    collected = layers(moments)
    if missing := [path for path in running if path not in collected]:
        raise ValueError(
            f"{named(missing[0])} collected no moments. Is the "
            'collection "batch_moments" mutable in apply, does training use the layer, '
            "and is it one of jaxnorm's? Flax's own collect none; take "
            "jaxnorm.linen.BatchNorm, which has the same variables."
        )
    trained, inferred = (
        np.asarray(y, np.float64) for y in (outputs, apply(variables, batch, False)[0])
    )
    difference = np.sqrt(np.mean((trained - inferred) ** 2))
    return Diagnosis(
        {
            "/".join(map(str, path)): _compare(layer, collected[path], epsilon)
            for path, layer in running.items()
        },
        float(difference / max(trained.std(), np.finfo(np.float32).tiny)),
    )


def _compare(layer: Tree, moments: Tree, epsilon: float) -> LayerDiagnosis:
    layer, batch = (
        {name: np.asarray(value, np.float64) for name, value in tree.items()}
        for tree in (layer, moments)
    )
    nothing = np.full(batch["mean"].shape, np.nan)
    mean = layer.get("mean", nothing)
    var = layer["std"] ** 2 - epsilon if "std" in layer else layer.get("var", nothing)
    std = np.sqrt(np.where(np.isnan(var), 1.0, var) + epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        return LayerDiagnosis(
            mean_distance=np.abs(batch["mean"] - mean) / std,
            std_ratio=np.sqrt(batch["var"] + epsilon) / np.sqrt(var + epsilon),
            condition=np.abs(batch["mean"]) / np.sqrt(batch["var"]),
            dead=batch["var"] <= epsilon,
            untouched=np.isin(mean, [0.0]) & np.isin(layer.get("var", 1.0), [1.0]),
            finite=np.all(
                [np.isfinite(layer[k]) for k in ("mean", "var", "std") if k in layer],
                axis=0,
            ),
        )


def _not_finite(found: dict[str, LayerDiagnosis]) -> list[str]:
    names = [name for name, layer in found.items() if not layer.finite.all()]
    return _say(
        names,
        "The running statistics are not finite in {}: one bad batch is enough. "
        "skip_nonfinite=True keeps them as they were; jaxnorm.tools.recalibrate mends "
        "them.",
    )


def _untouched(found: dict[str, LayerDiagnosis]) -> list[str]:
    names = [name for name, layer in found.items() if layer.untouched.all()]
    return _say(
        names,
        "The running statistics were never updated: mean 0 and variance 1 in {}. In "
        'training, is "batch_stats" mutable, and is what comes back kept for the next '
        "step and for evaluation?",
    )


def _far(found: dict[str, LayerDiagnosis]) -> list[str]:
    names = [
        name
        for name, layer in found.items()
        if not layer.untouched.all() and _typical(layer.mean_distance) > FAR
    ]
    return _say(
        names,
        "The running mean is more than a standard deviation away from the batch's in "
        "{}. Either it lags behind (few updates for its momentum, or weights that "
        "moved fast: jaxnorm.warmup_momentum, a smaller momentum, or "
        "jaxnorm.tools.recalibrate on training data), or these data are unlike those "
        "of training (recalibrate on them).",
    )


def _unlike(found: dict[str, LayerDiagnosis]) -> list[str]:
    names = []
    for name, layer in found.items():
        ratio = _typical(layer.std_ratio)
        if not layer.untouched.all() and not 1 / RATIO < ratio < RATIO:
            names.append(f"{name or 'the layer'} ({ratio:.2g} times)")
    return _say(
        names,
        "The standard deviation of the batch is not the running one in {}. Either "
        "the running average lags behind, which starts at 1 (jaxnorm.warmup_momentum, "
        "a smaller momentum, or jaxnorm.tools.recalibrate on training data), or these "
        "data vary otherwise than those of training (recalibrate on them). Smaller is "
        "also what batches of one kind (shuffle sorted data) or of very few examples "
        "(take a larger batch) give.",
    )


def _dead(found: dict[str, LayerDiagnosis]) -> list[str]:
    names = [
        f"{name or 'the layer'} ({layer.dead.sum()} of {layer.dead.size})"
        for name, layer in found.items()
        if layer.dead.any()
    ]
    return _say(
        names,
        "Features are constant over the batch, up to epsilon, in {}: dead units before "
        "the normalizer, or input that never changes. They come out as the bias; look "
        "at the layer before, its learning rate and its initialization.",
    )


def _ill_conditioned(found: dict[str, LayerDiagnosis]) -> list[str]:
    names = [
        f"{name or 'the layer'}"
        for name, layer in found.items()
        if layer.ill_conditioned.any()
    ]
    return _say(
        names,
        "Means are more than 1,000 standard deviations in {}, so that statistics from "
        "one pass are wrong while the running mean is cold: "
        "use_fast_variance=False, or take the mean out of the input.",
    )


def _typical(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else 1.0


def _say(names: list[str], sentence: str) -> list[str]:
    if not names:
        return []
    return [sentence.format(", ".join(name or "the layer" for name in names))]
