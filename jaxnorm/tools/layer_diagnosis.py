"""Comparison of a layer's running statistics with the moments of a batch."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnorm.tools.statistics import Tree

# Thresholds beyond which `advise` mentions a layer.
FAR = 1.0  # distance of the means, in standard deviations
RATIO = 1.5  # ratio of the standard deviations, in either direction
_CONDITION = 1e3  # ratio of mean to standard deviation


class LayerDiagnosis(NamedTuple):
    """A layer's running statistics compared with a batch, for each feature.

    All attributes are NumPy arrays of the shape of the statistics. The first three are
    float64, the others are boolean.

    Attributes:
      mean_distance: `|batch mean - running mean|` in running standard deviations; at
        least 0. NaN for a layer that keeps no mean.
      std_ratio: Standard deviation of the batch divided by the running one; above 0.
        NaN for a layer that keeps no variance.
      condition: `|mean| / standard deviation` of the batch; at least 0, infinite for a
        constant feature.
      dead: Whether the variance of the batch is at most epsilon, so that the output is
        close to the bias.
      untouched: Whether the running statistics still have their initial values, mean 0
        and variance 1.
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
        """Whether `|mean|` is above 1,000 standard deviations; False if dead."""
        return (self.condition > _CONDITION) & ~self.dead


def compare_layer(layer: Tree, moments: Tree, epsilon: float) -> LayerDiagnosis:
    """Returns the diagnosis of a layer from its statistics and the batch moments."""
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


def advise(layers: dict[str, LayerDiagnosis]) -> list[str]:
    """Returns a sentence for each unusual finding, the most serious first."""
    sentences = []
    for check, sentence in _CAUSES:
        found = [
            f"{name or 'the layer'}{detail}"
            for name, layer in layers.items()
            if (detail := check(layer)) is not None
        ]
        if found:
            sentences.append(sentence.format(", ".join(found)))
    return sentences


# Each check returns the text to put after the name of a layer, or None if it does not
# apply to the layer.


def _not_finite(layer: LayerDiagnosis) -> str | None:
    """Checks for running statistics that are not finite."""
    return None if layer.finite.all() else ""


def _untouched(layer: LayerDiagnosis) -> str | None:
    """Checks for running statistics that were never updated."""
    return "" if layer.untouched.all() else None


def _far(layer: LayerDiagnosis) -> str | None:
    """Checks for a running mean far from the batch mean."""
    far = _typical(layer.mean_distance) > FAR
    return "" if far and not layer.untouched.all() else None


def _unlike(layer: LayerDiagnosis) -> str | None:
    """Checks for a batch standard deviation unlike the running one."""
    ratio = _typical(layer.std_ratio)
    if layer.untouched.all() or 1 / RATIO < ratio < RATIO:
        return None
    return f" ({ratio:.2g} times)"


def _dead(layer: LayerDiagnosis) -> str | None:
    """Checks for features that are constant over the batch."""
    if not layer.dead.any():
        return None
    return f" ({layer.dead.sum()} of {layer.dead.size})"


def _ill_conditioned(layer: LayerDiagnosis) -> str | None:
    """Checks for means of more than 1,000 standard deviations."""
    return "" if layer.ill_conditioned.any() else None


def _typical(values: np.ndarray) -> float:
    """Returns the median, ignoring NaN; 1 if all values are NaN."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else 1.0


_CAUSES: tuple[tuple[Callable[[LayerDiagnosis], str | None], str], ...] = (
    (
        _not_finite,
        "The running statistics are not finite in {}: one bad batch is enough. "
        "skip_nonfinite=True skips the update for such batches; "
        "jaxnorm.tools.recalibrate restores the statistics.",
    ),
    (
        _untouched,
        "The running statistics were never updated: mean 0 and variance 1 in {}. Check "
        'that "batch_stats" is mutable in training, and that the updated collection is '
        "used in the next step and in evaluation.",
    ),
    (
        _far,
        "The running mean is more than one standard deviation away from the batch mean "
        "in {}. Either it lags behind, because of too few updates for its momentum or "
        "fast changes of the weights (use jaxnorm.warmup_momentum, a smaller momentum, "
        "or jaxnorm.tools.recalibrate on training data), or this batch differs from "
        "the training data (recalibrate on data like this batch).",
    ),
    (
        _unlike,
        "The standard deviation of the batch differs from the running one in {}. "
        "Either the running average, which starts at 1, lags behind (use "
        "jaxnorm.warmup_momentum, a smaller momentum, or jaxnorm.tools.recalibrate on "
        "training data), or the variance of this batch differs from the training data "
        "(recalibrate on data like this batch). A batch of similar examples (shuffle "
        "sorted data) or of very few examples (use a larger batch) also has a smaller "
        "standard deviation.",
    ),
    (
        _dead,
        "Features are constant over the batch, up to epsilon, in {}, because of dead "
        "units before the normalizer, or constant input. Their output is the bias. "
        "Check the layer before, its learning rate and its initialization.",
    ),
    (
        _ill_conditioned,
        "Means are larger than 1,000 standard deviations in {}, so that one-pass "
        "statistics are wrong until the running mean is near the batch mean: set "
        "use_fast_variance=False, or subtract the mean from the input.",
    ),
)
