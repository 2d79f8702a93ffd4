"""Each normalizer has all that it needs; a failure names what is missing.

CONTRIBUTING.md says what each part is.
"""

from pathlib import Path

import oracles
import pytest
from support.normalizers import TABLE

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx

TESTS = Path(__file__).parent
PAGES = ("README.md", "jaxnorm/README.md")
NOT_NORMALIZERS = {
    "batch_moments",
    "checkpoint_policy",
    "collect_reference",
    "denormalize",
    "gate_projection",
    "init_batch_stats",
    "init_mean_stats",
    "init_recurrent_stats",
    "init_renorm_stats",
    "init_running_moments",
    "init_var_stats",
    "init_weight_norm",
    "merge_moments",
    "normalize",
    "project_gates",
    "update_batch_stats",
    "warmup_momentum",
    "warmup_renorm",
    "weight_magnitude",
}
FUNCTIONS = {name for name in jaxnorm.__all__ if name.islower()}
# Equinox has no modules that wrap a layer, or that need a reference batch.
NOT_IN_EQUINOX = {
    "spectral_norm": "SpectralNorm",
    "standardize_weight": "WeightStandardization",
    "virtual_batch_norm": "VirtualBatchNorm",
    "weight_norm": "WeightNorm",
}


def classes_of(name):
    """The names of its modules, by API."""
    apis = {a: getattr(jaxnorm, a).__all__ for a in ("linen", "nnx", "equinox")}
    if name in NOT_IN_EQUINOX:
        del apis["equinox"]
        return {NOT_IN_EQUINOX[name]: apis}
    return dict.fromkeys(TABLE[name].layers or ["a layer in its entry"], apis)


def missing(name):
    """What a normalizer lacks, in words."""
    if name not in TABLE:
        yield "an entry in tests/support/normalizers"
        return
    if not hasattr(oracles, name):
        yield "an oracle of its name in tests/oracles"
    if not [*TESTS.rglob(f"test_{name}.py")]:
        yield f"tests of its own in test_{name}.py"
    for cls, apis in classes_of(name).items():
        yield from (f"jaxnorm.{api}.{cls}" for api in apis if cls not in apis[api])
    for page in PAGES:
        if f"`{name}`" not in (TESTS.parent / page).read_text():
            yield f"its name on the page {page}"


@pytest.mark.parametrize("name", sorted(FUNCTIONS - NOT_NORMALIZERS))
def test_a_normalizer_has_all_its_parts(name):
    assert not [*missing(name)]


def test_each_entry_is_of_a_public_function():
    assert set(TABLE) | NOT_NORMALIZERS == FUNCTIONS
