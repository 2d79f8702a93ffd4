"""Reading and writing of checkpoints that are flat dicts with keys like `bn1.bias`."""

import dataclasses
import difflib
from collections.abc import Mapping

import numpy as np

from jaxnorm.tools._trees import Path
from jaxnorm.tools.convert.layers import (
    Layer,
    as_array,
    check_flat,
    check_mapping,
    check_paths,
    split,
)


@dataclasses.dataclass(frozen=True)
class FlatNames:
    """The names that a framework gives to the arrays of its normalizers.

    Attributes:
      framework: Name of the framework.
      separator: Separator between the parts of a key.
      mean: Name of the running mean, which identifies batch norms.
      ours: A dict from the framework's name of each array to ours. The last of several
        names for the same array is the one that is written.
      argument: Name of the argument with which the user passes the arrays.
      source: Code that gets the arrays from a model, for error messages.
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
        """Returns the arrays of each layer by our names, and the path of each layer.

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
        check_flat(arrays, layers, self.argument, self.separator)
        paths = check_paths(layers, self.mean)
        return {layer: self._layer(layer, nodes) for layer in paths}, paths

    def write(self, layers: Mapping[str, Layer]) -> dict[str, np.ndarray]:
        """Returns the arrays of all layers by the framework's names.

        Raises:
          ValueError: If the framework has no name for an array.
        """
        names = {ours: theirs for theirs, ours in self.ours.items()}
        result = {}
        for layer, values in layers.items():
            for key, value in values.items():
                if key not in names:
                    raise ValueError(
                        f"{layer!r} must have arrays that {self.framework} stores, "
                        f"got {key}. Leave this layer out of layers."
                    )
                result[self._join(layer, names[key])] = value
        return result

    def _layer(self, name: str, nodes: Mapping[str, Mapping[str, object]]) -> Layer:
        """Returns the arrays of one layer by our names."""
        if name not in nodes:
            near = difflib.get_close_matches(name, nodes, n=3, cutoff=0.3)
            layers = (
                f"Similar names: {near}" if near else f"Its layers: {list(nodes)[:5]}"
            )
            layers = layers if nodes else f"{self.argument} is empty"
            raise ValueError(
                f"{self.argument} must have each layer listed in layers, got none "
                f"named {name!r}. {layers}."
            )
        unknown = [leaf for leaf in nodes[name] if leaf not in self.ours]
        if unknown:
            raise ValueError(
                f"A normalizer of {self.framework} must have no other arrays than "
                f"{list(self.ours)}, but {name!r} has {unknown}. It seems to be "
                "another layer. If it was found by its "
                f"{self.mean}, list the layers to convert in `layers`."
            )
        if len({self.ours[leaf] for leaf in nodes[name]}) < len(nodes[name]):
            raise ValueError(
                f"A normalizer of {self.framework} must have one array of each kind, "
                f"but {name!r} has {list(nodes[name])}. It seems to be another layer."
            )
        return {
            self.ours[leaf]: as_array(value, self._join(name, leaf))
            for leaf, value in nodes[name].items()
        }

    def _join(self, layer: str, leaf: str) -> str:
        """Returns the key of an array of a layer."""
        return f"{layer}{self.separator}{leaf}" if layer else leaf
