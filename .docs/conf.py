"""The reference: docstrings, and the pages beside the code. CONTRIBUTING says how."""

from importlib import metadata

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

CONTENTS = """
```{toctree}
:hidden:
:caption: Guides
jaxnorm/README
jaxnorm/linen/README
jaxnorm/nnx/README
jaxnorm/tools/README
jaxnorm/tools/RECIPES
jaxnorm/tools/convert/README
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


def setup(app):
    """Sphinx calls it."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", refuse_undocumented)
