"""A file imports from its own layer and from those below it."""

import ast
from pathlib import Path

import jaxnorm

ROOT = Path(jaxnorm.__file__).parent
# From the bottom to the top.
LAYERS = [
    ["_core.arrays"],
    ["_core.arguments"],
    ["_core.reductions"],
    ["_core.moments"],
    ["_core.running"],
    ["_core"],
    ["sample", "weight"],
    ["batch"],
    ["hybrid"],
    ["__init__"],
    ["_layers", "tools"],
    ["linen", "nnx", "equinox"],
]
HEIGHTS = {name: height for height, layer in enumerate(LAYERS) for name in layer}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
}


def height_of(module):
    """Returns the height of the innermost folder that is a layer."""
    while module not in HEIGHTS:
        module, _, _ = module.rpartition(".")
    return HEIGHTS[module]


def imports_of(path):
    """Yields the modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            package, _, inner = module.partition(".")
            if package == "jaxnorm":
                yield inner or "__init__"


def test_imports_point_down():
    upward = [
        (module, imported)
        for module, path in FILES.items()
        if module != "__init__"
        for imported in imports_of(path)
        if height_of(imported) > height_of(module)
    ]
    assert not upward
