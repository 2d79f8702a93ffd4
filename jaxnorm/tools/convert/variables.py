"""Conversion between the layers of a checkpoint and a Linen variables tree."""

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
    """Returns a Linen variables tree with each layer at its path.

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
      variables: A Linen variables tree; other layers are ignored.
      layers: A dict from names to paths. None means all layers that have a mean, named
        by their joined paths.
      separator: String that joins the parts of a path.
      offsets: The offsets that layers add to their scales, in both frameworks.

    Raises:
      TypeError, ValueError: As `check_paths` and `check_layer`; and if a layer is
        missing, or has other arrays than scale, bias, mean, var, std and count.
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
                        f"{collection} of {path} must hold no other arrays than "
                        f"{[k for k, c in COLLECTIONS.items() if c == collection]}, "
                        f"got {key!r}, which other libraries do not store. Leave this "
                        "layer out of layers."
                    )
                layer[key] = as_array(value, f"{key} of {path}")
        if not layer:
            nodes = {leaf[1:-1] for leaf in walk(variables) if leaf[-1] in COLLECTIONS}
            raise ValueError(
                f"variables must have each layer listed in layers, got none at {path}, "
                "neither in params nor in batch_stats. The layers are "
                f"{sorted(nodes)[:8]}. Pass {LINEN}."
            )
        result[name] = check_layer(layer, f"the variables at {path}")
    offsets.to_theirs(result)
    return result
