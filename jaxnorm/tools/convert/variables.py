"""Layers, by their names in a checkpoint, to a Linen variables tree and back."""

from collections.abc import Mapping
from typing import Any

from jaxnorm.tools._trees import Path, insert, is_node, node_at, walk
from jaxnorm.tools.convert.layers import (
    COLLECTIONS,
    LINEN,
    Layer,
    Variables,
    as_array,
    check_layer,
    check_mapping,
    check_paths,
)
from jaxnorm.tools.convert.scale_offsets import ScaleOffsets


def to_variables(
    layers: Mapping[str, Layer], paths: Mapping[str, Path], offsets: ScaleOffsets
) -> Variables:
    """Returns layers, each at its path, as a Linen variables tree.

    Raises:
      TypeError, ValueError: As `check_layer`.
    """
    for name, layer in layers.items():
        check_layer(layer, repr(name))
    offsets.to_ours(layers)
    variables: Variables = {"params": {}, "batch_stats": {}}
    for name, layer in layers.items():
        for key, value in layer.items():
            insert(variables, (COLLECTIONS[key], *paths[name], key), value)
    return variables


def from_variables(
    variables: Mapping[str, Any],
    layers: Mapping[str, Path] | None,
    separator: str,
    offsets: ScaleOffsets,
) -> dict[str, Layer]:
    """Returns the layers of a Linen variables tree, by their names in a checkpoint.

    Args:
      variables: A Linen variables tree, of which all but the layers is ignored.
      layers: Their paths by their names; None: all that have a mean, their paths
        joined.
      separator: What joins the parts of a path.
      offsets: What is added to scales, there and here.

    Raises:
      TypeError, ValueError: As `check_paths` and `check_layer`; and if a layer is not
        there, or has other arrays than scale, bias, mean, var, std and count.
    """
    check_mapping(variables, "variables", LINEN)
    if layers is None:
        layers = {
            separator.join(map(str, path[:-1])): path[:-1]
            for path in walk(variables.get("batch_stats", {}))
            if path[-1] == "mean"
        }
    paths = check_paths(layers, "mean in batch_stats")
    result = {}
    for name, path in paths.items():
        layer: Layer = {}
        for collection in ("params", "batch_stats"):
            for key, value in node_at(variables, (collection, *path)).items():
                if is_node(value):
                    continue
                if COLLECTIONS.get(key) != collection:
                    raise ValueError(
                        f"{collection} of {path} must hold "
                        f"{[k for k, c in COLLECTIONS.items() if c == collection]} at "
                        f"most, got {key!r}, which other libraries do not store."
                    )
                layer[key] = as_array(value, f"{key} of {path}")
        if not layer:
            nodes = {leaf[1:-1] for leaf in walk(variables) if leaf[-1] in COLLECTIONS}
            raise ValueError(
                f"variables must have the layers that are named, and have none at "
                f"{path}, in params or in batch_stats. There are {sorted(nodes)[:8]}. "
                f"Pass {LINEN}."
            )
        result[name] = check_layer(layer, f"the variables at {path}")
    offsets.to_theirs(result)
    return result
