"""The reference: docstrings, and the pages beside the code. CONTRIBUTING says how."""

import inspect
import pathlib
import re
import shutil
from importlib import import_module, metadata

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

project = "jaxnorm"
author = "The jaxnorm authors"
release = version = metadata.version("jaxnorm")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for the role autolink
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
    "examples/tutorial/*.ipynb",
    ".docs/reference/*.md",
]
exclude_patterns = ["build/**", "**/.venv*/**"]

default_role = "autolink"
autosummary_generate = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them
autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "undoc-members": True,
}
maximum_signature_line_length = 88
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks have their outputs
html_math_renderer = "mathml"

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
PUBLIC_NAMES = {  # in signatures; a ~ is written by Sphinx, for short names
    r"(?:jax\.)?jaxlib\._jax\.Array": "jax.Array",
    r"str \| type\[~typing\.Any\] \| ~numpy\.dtype \| "
    r"~jax\._src\.typing\.SupportsDType": "~jax.typing.DTypeLike",
    r"~jax\.Array \| ~numpy\.ndarray \| ~numpy\.bool \| ~numpy\.number \| "
    r"bool \| int \| float \| complex": "~jax.typing.ArrayLike",
    r"<(?:class|function) '?([\w.]+)'?>": r"\1",
    r"<[\w.]+ object>": "...",
}
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
examples/README
examples/mnist/README
examples/studies/README
```
```{toctree}
:hidden:
:caption: Tutorial
:glob:
examples/tutorial/README
examples/tutorial/0*
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


def skip_fields(app, what, name, obj, skip, options):
    """Skips the fields of a class: its docstring and its signature have them."""
    method = inspect.isroutine(obj) and str(obj.__module__).startswith("jaxnorm")
    if what == "class" and not (method or isinstance(obj, property)):
        return True


def shorten_signature(app, what, name, obj, options, signature, returns):
    """Writes types and defaults by the names under which JAX exports them."""
    for pattern, public in PUBLIC_NAMES.items():
        signature = signature and re.sub(pattern, public, signature)
        returns = returns and re.sub(pattern, public, returns)
    return signature, returns


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


def visit_math(translator, node):
    """Sets a formula in MathML, which browsers lay out without a script."""
    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    if block:  # scrolls where the page is narrow
        formula = f'<div class="math-wrapper" style="margin: 1rem 0">{formula}</div>'
    translator.body.append(formula)
    raise nodes.SkipNode


def setup(app):
    """Sphinx calls it."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", refuse_undocumented)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("env-check-consistency", refuse_missing)
    app.connect("build-finished", copy_figures)
