"""What `import jaxnorm` brings at once, what at its first use, and what never."""

import importlib.metadata
import subprocess
import sys

import pytest

import jaxnorm
import jaxnorm.linen
import jaxnorm.nnx
import jaxnorm.tools

LAZY = ["equinox", "linen", "nnx", "tools"]

FRESH = """
import sys
import jaxnorm
dir(jaxnorm)
assert "flax" not in sys.modules, "import jaxnorm imports Flax"
assert "jaxnorm.tools" not in sys.modules
print(jaxnorm.__version__)
jaxnorm.tools.recalibrate
assert "flax" not in sys.modules, "jaxnorm.tools imports Flax"
jaxnorm.linen.BatchNorm, jaxnorm.nnx.BatchNorm
assert jaxnorm.linen is sys.modules["jaxnorm.linen"]
"""


def test_subpackages_are_imported_at_their_first_use():
    result = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == importlib.metadata.version("jaxnorm")


def test_dir_shows_the_api_and_its_subpackages():
    shown = {name for name in dir(jaxnorm) if not name.startswith("_")}
    assert shown == {*jaxnorm.__all__, *LAZY}
    assert "__version__" in dir(jaxnorm)


@pytest.mark.parametrize("name", jaxnorm.linen.__all__)
def test_the_error_for_a_module_says_which_subpackage_has_it(name):
    places = [p for p in ("linen", "nnx") if name in getattr(jaxnorm, p).__all__]
    with pytest.raises(AttributeError) as caught:
        getattr(jaxnorm, name)
    for place in places:
        assert f"jaxnorm.{place}.{name}" in str(caught.value)


@pytest.mark.parametrize("name", sorted({*jaxnorm.tools.__all__} - {*jaxnorm.__all__}))
def test_the_error_for_a_tool_says_that_tools_has_it(name):
    with pytest.raises(AttributeError, match=rf"jaxnorm\.tools\.{name}\?"):
        getattr(jaxnorm, name)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("batchnorm", ["jaxnorm.batch_norm", "jaxnorm.linen.BatchNorm"]),
        ("LayerNORM", ["jaxnorm.layer_norm", "jaxnorm.nnx.LayerNorm"]),
        ("Recalibrate", ["jaxnorm.tools.recalibrate"]),
    ],
)
def test_the_error_for_another_spelling_suggests_the_name(name, places):
    with pytest.raises(AttributeError, match="Did you mean") as caught:
        getattr(jaxnorm, name)
    assert all(place in str(caught.value) for place in places)


@pytest.mark.parametrize("name", ["BatchNrom", "_private", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error(name):
    assert not hasattr(jaxnorm, name)
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'\.$"):
        getattr(jaxnorm, name)
