"""Checkpoints that are one flat mapping: names with a separator, such as `bn1.bias`."""

import dataclasses
import difflib
from collections.abc import Mapping

import numpy as np

from jaxnorm.tools._trees import Path, is_node
from jaxnorm.tools.convert.layers import (
    Layer,
    as_array,
    check_mapping,
    check_paths,
    split,
)


@dataclasses.dataclass(frozen=True)
class FlatNames:
    """How a framework names the arrays of its normalizers.

    Attributes:
      framework: What it is called.
      separator: What parts of a name are separated by.
      mean: Its name of the running mean, by which batch norms are found.
      ours: Our name of each array, by its name.
      argument: What the arrays are called that the user passes.
      source: How to get them from a model.
    """

    framework: str
    separator: str
    mean: str
    ours: Mapping[str, str]
    argument: str
    source: str

    def read(
        self, arrays: Mapping[str, object], layers: Mapping[str, Path] | None
    ) -> tuple[dict[str, Layer], dict[str, Path]]:
        """Returns the arrays of the layers by our names, and their paths.

        Raises:
          TypeError, ValueError: As `check_mapping` and `check_paths`; and if a layer
            has no array, or one of an unknown name.
        """
        check_mapping(arrays, self.argument, self.source)
        nodes: dict[str, dict[str, object]] = {}
        for name, value in arrays.items():
            layer, _, leaf = name.rpartition(self.separator)
            nodes.setdefault(layer, {})[leaf] = value
        if layers is None:
            found = [layer for layer, node in nodes.items() if self.mean in node]
            layers = split(found, self.separator)
        inner = [name for name, value in arrays.items() if is_node(value)]
        if inner and not any(layer in nodes for layer in layers):
            raise ValueError(
                f"{self.argument} must hold arrays by their names, and holds dicts "
                f"at {inner}. Pass one of these: [{inner[0]!r}]."
            )
        paths = check_paths(layers, self.mean)
        return {layer: self._layer(layer, nodes) for layer in paths}, paths

    def write(self, layers: Mapping[str, Layer]) -> dict[str, np.ndarray]:
        """Returns the arrays of all layers by the framework's names.

        Raises:
          ValueError: If it has no name for one.
        """
        names = {ours: theirs for theirs, ours in self.ours.items()}
        result = {}
        for layer, values in layers.items():
            for key, value in values.items():
                if key not in names:
                    raise ValueError(
                        f"{layer!r} has {key}, for which {self.framework} has no place."
                    )
                result[self._join(layer, names[key])] = value
        return result

    def _layer(self, name: str, nodes: Mapping[str, Mapping[str, object]]) -> Layer:
        if name not in nodes:
            near = difflib.get_close_matches(name, nodes, n=3, cutoff=0.3)
            layers = f"Near it: {near}" if near else f"There are {list(nodes)[:5]}"
            layers = layers if nodes else "It is empty"
            raise ValueError(
                f"{self.argument} must have the layers that are named, and has none "
                f"named {name!r}. {layers}."
            )
        unknown = [leaf for leaf in nodes[name] if leaf not in self.ours]
        if unknown:
            raise ValueError(
                f"A normalizer of {self.framework} has {list(self.ours)} at most, but "
                f"{name!r} has {unknown}. Is it another layer? If it was found by its "
                f"{self.mean}, name the layers to convert in `layers`."
            )
        return {
            self.ours[leaf]: as_array(value, self._join(name, leaf))
            for leaf, value in nodes[name].items()
        }

    def _join(self, layer: str, leaf: str) -> str:
        return f"{layer}{self.separator}{leaf}" if layer else leaf
