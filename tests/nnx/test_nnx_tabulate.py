"""`nnx.tabulate`, which calls every public method of a module under jit."""

import inspect

import pytest
from flax import nnx
from support.family import TABLE as FUNCTIONS
from support.family import draw_arguments
from support.nnx_modules import NAMES, TABLE, WITH_MORE, build, call
from support.tiers import matrix

import jaxnorm.nnx

WIDE = {"console_kwargs": {"width": 200}}


class Model(nnx.Module):
    """A module as a part of another."""

    def __init__(self, name):
        self.name = name
        self.norm = build(name)

    def __call__(self, x):
        return call(self.name, self.norm, x)


# What users call, or Flax.
PUBLIC = {"initialize_carry", "set_view"}


@pytest.mark.parametrize("name", NAMES)
def test_other_methods_are_private(name):
    """Of public ones, tabulate compiles the arguments, and shows a row."""
    cls = getattr(jaxnorm.nnx, name)
    own = {n for n, value in inspect.getmembers(cls, inspect.isfunction) if n[0] != "_"}
    assert own - set(dir(nnx.Module)) <= PUBLIC


# One of each kind. The carry of the cell is a NamedTuple, which Flax does not show, and
# so are the way back of reversible instance norm and the moments of causal group norm.
NOT_SHOWN = {"BatchNormLSTMCell", *WITH_MORE}


@pytest.mark.parametrize(
    "name",
    matrix(
        (n for n in NAMES if n not in NOT_SHOWN),
        often=("RecurrentBatchNorm", "SpectralNorm"),
    ),
)
def test_tabulate(name):
    """It works alone and in a model, twice, and leaves the classes as they were."""
    x, *_ = draw_arguments(FUNCTIONS["rms_norm"])
    for _ in range(2):
        given = TABLE[name].beside(x)
        assert name in nnx.tabulate(build(name), x, *given, **WIDE)
    assert name in nnx.tabulate(Model(name), x, **WIDE)
    nnx.eval_shape(lambda x: call(name, build(name), x), x)
