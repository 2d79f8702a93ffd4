"""Conversion of scales between layers that add different offsets to them."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxnorm._core.arguments.validation import check_finite
from jaxnorm.tools.convert.layers import Layer, for_each
from jaxnorm.tools.scale_offset import shifted, warn_of_scales

Offsets = float | Mapping[str, float]
"""One offset for all layers, or a dict from the name of each layer with a scale."""


class ScaleOffsets(NamedTuple):
    """The offsets that layers add to their stored scales.

    Attributes:
      theirs: The offsets in the other framework.
      ours: The `scale_offset` of our layers.
    """

    theirs: Offsets
    ours: Offsets

    def to_ours(self, layers: Mapping[str, Layer]) -> None:
        """Converts their scales to ours, in place, and warns if they look wrong."""
        theirs, ours = self._of_each(layers)
        for name in ours:
            _shift(layers[name], theirs[name] - ours[name], name)
        _check_factors(layers, ours, involved={*theirs.values(), *ours.values()})

    def to_theirs(self, layers: Mapping[str, Layer]) -> None:
        """Converts our scales to theirs, in place, and warns if they look wrong."""
        theirs, ours = self._of_each(layers)
        _check_factors(layers, ours, involved={*theirs.values(), *ours.values()})
        for name in ours:
            _shift(layers[name], ours[name] - theirs[name], name)

    def _of_each(
        self, layers: Mapping[str, Layer]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Returns their offset and ours for each layer with a scale."""
        scaled = [name for name, layer in layers.items() if "scale" in layer]
        return (
            _numbers(self.theirs, scaled, "their_scale_offset"),
            _numbers(self.ours, scaled, "scale_offset"),
        )


def _numbers(offsets: Offsets, names: list[str], what: str) -> dict[str, float]:
    """Returns the offset of each named layer, checked to be a finite number."""
    given = for_each(offsets, names, what)
    return {name: check_finite(offset, what) for name, offset in given.items()}


def _shift(layer: Layer, by: float, name: str) -> None:
    """Adds a number to the scale of a layer, in place; 0 keeps every bit."""
    if by:
        layer["scale"] = shifted(layer["scale"], by, f"scale of {name!r}")


def _check_factors(
    layers: Mapping[str, Layer], ours: Mapping[str, float], involved: set[float]
) -> None:
    """Warns if `scale_offset + scale` is about 0 or 2 in most layers."""
    scales = {name: layers[name]["scale"] for name in ours}
    warn_of_scales(scales, ours, doubled=any(involved))
