"""The reference: docstrings, and the pages beside the code. CONTRIBUTING says how."""

import pathlib
import shutil
from importlib import import_module, metadata

from sphinx.util import logging

project = "jaxnorm"
author = "The jaxnorm authors"
release = version = metadata.version("jaxnorm")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for the role autolink
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    "jaxnorm/**.md",
    "examples/**.md",
    ".docs/reference/*.md",
]
exclude_patterns = ["build/**", "**/.venv*/**"]

default_role = "autolink"
autosummary_generate = False
napoleon_use_ivar = True
autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "undoc-members": True,
}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = "jaxnorm"
html_extra_path = ["extra"]

PACKAGES = (
    "jaxnorm",
    "jaxnorm.linen",
    "jaxnorm.nnx",
    "jaxnorm.equinox",
    "jaxnorm.tools",
)
CONTENTS = """
```{toctree}
:hidden:
:caption: Guides
jaxnorm/README
jaxnorm/linen/README
jaxnorm/nnx/README
jaxnorm/equinox/README
jaxnorm/tools/README
jaxnorm/tools/RECIPES
jaxnorm/tools/convert/README
examples/tutorial/README
examples/README
examples/mnist/README
examples/studies/README
```
```{toctree}
:hidden:
:caption: Reference
.docs/reference/functions
.docs/reference/linen
.docs/reference/nnx
.docs/reference/equinox
.docs/reference/tools
```
```{toctree}
:hidden:
:caption: Project
.github/CONTRIBUTING
CHANGELOG
```
"""


def add_contents(app, docname, source):
    """Gives the front page the table of contents, which GitHub could not show."""
    if docname == root_doc:
        source[0] += CONTENTS


def refuse_undocumented(app, what, name, obj, options, lines):
    """Warns, which a strict build takes for an error."""
    if not any(lines) and what in ("class", "exception", "function"):
        logging.getLogger(__name__).warning("%s has no docstring", name)


def drop_defaults(app, what, name, obj, options, lines):
    """Drops what a default of a field, such as `jax.lax.tanh`, says of itself."""
    module = getattr(obj, "__module__", None) or "jaxnorm"
    if what in ("attribute", "method") and not module.startswith("jaxnorm"):
        lines.clear()


def refuse_missing(app, env):
    """Warns of a public name without an entry, by this or another name."""
    entries = {name for name, *_ in env.get_domain("py").get_objects()}
    public = {
        f"{package}.{name}": getattr(import_module(package), name)
        for package in PACKAGES
        for name in import_module(package).__all__
    }
    documented = {public[name] for name in entries & public.keys()}
    for name, value in public.items():
        if value not in documented:
            logging.getLogger(__name__).warning("%s is missing", name)


def copy_figures(app, exception):
    """Copies the pictures of the front page: Sphinx does not see those in HTML."""
    figures = pathlib.Path("examples", "figures")
    shutil.copytree(app.srcdir / figures, app.outdir / figures, dirs_exist_ok=True)


def setup(app):
    """Sphinx calls it."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", refuse_undocumented)
    app.connect("autodoc-process-docstring", drop_defaults)
    app.connect("env-check-consistency", refuse_missing)
    app.connect("build-finished", copy_figures)
