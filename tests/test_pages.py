"""The pages of documentation: their code runs, their links lead somewhere.

Each page is run alone, its blocks of Python in order, in a fresh process.
"""

import pathlib
import re
import subprocess
import sys

import pytest

import jaxnorm

ROOT = pathlib.Path(__file__).parents[1]
FUNCTIONS = "jaxnorm/README.md"
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / ".github/CONTRIBUTING.md",
        *sorted((ROOT / "jaxnorm").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
    )
}
CODE = {
    name: blocks
    for name, text in PAGES.items()
    if (blocks := re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
}
DEVICES = 'import jax; jax.config.update("jax_num_cpu_devices", 8)'
every_page = pytest.mark.parametrize("name", PAGES)


# The default and the full tier run the examples of the docstrings.
@pytest.mark.slow
@pytest.mark.parametrize("name", CODE)
def test_python_blocks_run(name):
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([DEVICES, *CODE[name]])],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_pages_have_code():
    assert {"README.md", FUNCTIONS} < set(CODE)
    assert len(CODE) >= 6


@every_page
def test_python_blocks_can_be_parsed(name):
    for block in CODE.get(name, ()):
        compile(block, name, "exec")


def prose(text):
    """Returns a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(text):
    """Returns the anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@every_page
def test_links_lead_somewhere(name):
    text = prose(PAGES[name])
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    links += re.findall(r'src(?:set)?="([^"]+)"', text)
    for link in links:
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name} links to {link}, which is not there"
        if anchor:
            there = anchors(target.read_text())
            assert anchor in there, f"{name} links to {link}, where {there} are"


def test_the_front_page_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 200


@pytest.mark.parametrize("name", jaxnorm.__all__)
def test_every_public_name_is_on_the_page_of_functions(name):
    assert f"`{name}`" in PAGES[FUNCTIONS]
