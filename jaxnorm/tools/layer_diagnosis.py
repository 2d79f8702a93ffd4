"""One layer's statistics beside those of a batch, and what is unusual in them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnorm.tools.statistics import Tree

# Beyond these a layer is spoken of.
FAR = 1.0  # standard deviations between the means
RATIO = 1.5  # of the standard deviations, either way
_CONDITION = 1e3  # of mean and standard deviation


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
        """Whether it varies, and its mean is above 1,000 standard deviations."""
        return (self.condition > _CONDITION) & ~self.dead


def compare_layer(layer: Tree, moments: Tree, epsilon: float) -> LayerDiagnosis:
    """Returns the diagnosis of a layer, given its statistics and a batch's moments."""
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
    """Returns a sentence for each thing that is unusual, the gravest first."""
    sentences = []
    for tell, sentence in _CAUSES:
        found = [
            f"{name or 'the layer'}{detail}"
            for name, layer in layers.items()
            if (detail := tell(layer)) is not None
        ]
        if found:
            sentences.append(sentence.format(", ".join(found)))
    return sentences


# Each returns None if it does not apply to a layer, else text to put after its name.


def _not_finite(layer: LayerDiagnosis) -> str | None:
    return None if layer.finite.all() else ""


def _untouched(layer: LayerDiagnosis) -> str | None:
    return "" if layer.untouched.all() else None


def _far(layer: LayerDiagnosis) -> str | None:
    far = _typical(layer.mean_distance) > FAR
    return "" if far and not layer.untouched.all() else None


def _unlike(layer: LayerDiagnosis) -> str | None:
    ratio = _typical(layer.std_ratio)
    if layer.untouched.all() or 1 / RATIO < ratio < RATIO:
        return None
    return f" ({ratio:.2g} times)"


def _dead(layer: LayerDiagnosis) -> str | None:
    if not layer.dead.any():
        return None
    return f" ({layer.dead.sum()} of {layer.dead.size})"


def _ill_conditioned(layer: LayerDiagnosis) -> str | None:
    return "" if layer.ill_conditioned.any() else None


def _typical(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else 1.0


_CAUSES: tuple[tuple[Callable[[LayerDiagnosis], str | None], str], ...] = (
    (
        _not_finite,
        "The running statistics are not finite in {}: one bad batch is enough. "
        "skip_nonfinite=True keeps them as they were; jaxnorm.tools.recalibrate mends "
        "them.",
    ),
    (
        _untouched,
        "The running statistics were never updated: mean 0 and variance 1 in {}. In "
        'training, is "batch_stats" mutable, and is what comes back kept for the next '
        "step and for evaluation?",
    ),
    (
        _far,
        "The running mean is more than a standard deviation away from the batch's in "
        "{}. Either it lags behind (few updates for its momentum, or weights that "
        "moved fast: jaxnorm.warmup_momentum, a smaller momentum, or "
        "jaxnorm.tools.recalibrate on training data), or these data are unlike those "
        "of training (recalibrate on them).",
    ),
    (
        _unlike,
        "The standard deviation of the batch is not the running one in {}. Either "
        "the running average lags behind, which starts at 1 (jaxnorm.warmup_momentum, "
        "a smaller momentum, or jaxnorm.tools.recalibrate on training data), or these "
        "data vary otherwise than those of training (recalibrate on them). Smaller is "
        "also what batches of one kind (shuffle sorted data) or of very few examples "
        "(take a larger batch) give.",
    ),
    (
        _dead,
        "Features are constant over the batch, up to epsilon, in {}: dead units before "
        "the normalizer, or input that never changes. They come out as the bias; look "
        "at the layer before, its learning rate and its initialization.",
    ),
    (
        _ill_conditioned,
        "Means are more than 1,000 standard deviations in {}, so that statistics from "
        "one pass are wrong while the running mean is cold: "
        "use_fast_variance=False, or take the mean out of the input.",
    ),
)
