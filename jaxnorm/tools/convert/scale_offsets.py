"""Scales of layers that add an offset to them, there or here."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxnorm._core.arguments.validation import check_finite
from jaxnorm.tools.convert.layers import Layer, for_each
from jaxnorm.tools.scale_offset import shifted, warn_of_scales

Offsets = float | Mapping[str, float]
"""One of all layers, or one by the name of each layer that has a scale."""


class ScaleOffsets(NamedTuple):
    """What layers add to the scales that they store.

    Attributes:
      theirs: In the other framework.
      ours: The `scale_offset` of our layers.
    """

    theirs: Offsets
    ours: Offsets

    def to_ours(self, layers: Mapping[str, Layer]) -> None:
        """Makes their scales ours, in place, and warns of those that look wrong."""
        theirs, ours = self._of_each(layers)
        for name in ours:
            _shift(layers[name], theirs[name] - ours[name], name)
        _check_factors(layers, ours, involved={*theirs.values(), *ours.values()})

    def to_theirs(self, layers: Mapping[str, Layer]) -> None:
        """Makes our scales theirs, in place, and warns of those that look wrong."""
        theirs, ours = self._of_each(layers)
        _check_factors(layers, ours, involved={*theirs.values(), *ours.values()})
        for name in ours:
            _shift(layers[name], ours[name] - theirs[name], name)

    def _of_each(
        self, layers: Mapping[str, Layer]
    ) -> tuple[dict[str, float], dict[str, float]]:
        scaled = [name for name, layer in layers.items() if "scale" in layer]
        return (
            _numbers(self.theirs, scaled, "their_scale_offset"),
            _numbers(self.ours, scaled, "scale_offset"),
        )


def _numbers(offsets: Offsets, names: list[str], what: str) -> dict[str, float]:
    given = for_each(offsets, names, what)
    return {name: check_finite(offset, what) for name, offset in given.items()}


def _shift(layer: Layer, by: float, name: str) -> None:
    if by:
        layer["scale"] = shifted(layer["scale"], by, f"scale of {name!r}")


def _check_factors(
    layers: Mapping[str, Layer], ours: Mapping[str, float], involved: set[float]
) -> None:
    scales = {name: layers[name]["scale"] for name in ours}
    warn_of_scales(scales, ours, doubled=any(involved))
