"""Constructors of modules: those of Flax, and each argument described."""

import inspect

import flax.linen
import jax
import pytest
from flax import nnx

import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx
from jaxnorm._core.batch_options import DEFAULTS

DROP_INS = "BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"
MODULES = [
    pytest.param(api, name, id=f"{api.__name__}.{name}")
    for api in (jaxnorm.linen, jaxnorm.nnx, jaxnorm.equinox)
    for name in api.__all__
    if name[0].isupper()
    if name not in ("BatchMoment", "LSTMCarry", "MaskedInputs", "Reference")
]


def defaults(signature):
    """Defaults by name; functions only as such, since zeros_init() is no one object."""
    return {
        name: type if callable(parameter.default) else parameter.default
        for name, parameter in signature.parameters.items()
        # of its own, where Flax's is a constant
        if name not in ("scale_init", "promote_dtype", "parent", "name")
        and not name.endswith("_metadata")
    }


@pytest.mark.parametrize("name", [*DROP_INS, "WeightNorm", "SpectralNorm"])
def test_linen_takes_what_flax_does_by_position(name):
    flax_class, own = getattr(flax.linen, name), getattr(jaxnorm.linen, name)
    theirs = defaults(inspect.signature(flax_class))
    ours = defaults(inspect.signature(own))
    assert list(theirs.items()) == list(ours.items())[: len(theirs)]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("EvoNormS0", ["num_groups", "epsilon"]),
        ("CausalGroupNorm", ["time_axis", "num_groups", "group_size", "epsilon"]),
        ("SeedNorm", ["num_heads", "epsilon"]),
        ("ReversibleInstanceNorm", ["time_axis", "feature_axes", "epsilon"]),
        ("VirtualBatchNorm", ["include_self", "axis", "epsilon"]),
    ],
)
def test_linen_takes_first_what_is_most_often_set(name, first):
    """By position: another order would give numbers another meaning, silently."""
    arguments = inspect.signature(getattr(jaxnorm.linen, name)).parameters
    assert list(arguments)[: len(first)] == first


@pytest.mark.parametrize("name", DROP_INS)
def test_nnx_takes_what_flax_does(name):
    theirs = inspect.signature(getattr(nnx, name).__init__).parameters
    ours = inspect.signature(getattr(jaxnorm.nnx, name)).parameters
    assert theirs.keys() - {"self"} <= ours.keys()
    theirs = defaults(inspect.signature(getattr(nnx, name).__init__))
    del theirs["self"]
    assert (
        theirs.items()
        <= defaults(inspect.signature(getattr(jaxnorm.nnx, name))).items()
    )
    by_position = [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    theirs = inspect.signature(getattr(nnx, name).__init__).parameters.items()
    expected = [n for n, p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_position == expected[1:]


@pytest.mark.parametrize(("api", "name"), MODULES)
def test_help_describes_every_argument(api, name):
    cls = getattr(api, name)
    arguments = inspect.signature(cls).parameters.keys() - {"parent", "name"}
    assert "args" not in arguments
    described = inspect.cleandoc(cls.__doc__)
    assert not [name for name in arguments if f"\n  {name}: " not in described]
    # what stands before one is another in each class
    assert not [name for name in arguments if f"\n  {name}: Likewise." in described]


@pytest.mark.parametrize(("api", "name"), MODULES)
def test_calls_have_the_name_of_their_class(api, name):
    """By which Python's errors about their arguments name them."""
    call = getattr(api, name).__call__
    assert call.__qualname__ == f"{name}.__call__"
    if hasattr(call, "method_handler_wrapped"):  # by Flax
        assert call.__wrapped__.__qualname__ == f"{name}.__call__"


def test_classes_of_users():
    """With a constructor, a field or a docstring of their own."""

    class OfLinen(jaxnorm.linen.BatchNorm):
        """Mine.

        Attributes:
          factor: My own.
        """

        factor: float = 2.0

    class OfNNX(jaxnorm.nnx.BatchNorm):
        """Mine."""

        def __init__(self, width, *, rngs):
            super().__init__(width, momentum=0.5, rngs=rngs)
            self.factor = 2.0

    class AlsoOfNNX(jaxnorm.nnx.GroupNorm):
        """Mine."""

    class OfEquinox(jaxnorm.equinox.LayerNorm):
        """Mine."""

        def __init__(self, width):
            super().__init__(width, epsilon=1e-3)

    class AlsoOfEquinox(jaxnorm.equinox.LayerNorm):
        """Mine."""

    class Doubled(jaxnorm.nnx.GroupNorm):
        def __call__(self, x, *, mask=None):
            return 2 * super().__call__(x, mask=mask)

    class Both(AlsoOfNNX, Doubled):
        """Its call is that of the second base, since the first has none of its own."""

    assert OfLinen(factor=3.0).momentum == 0.99
    assert "My own" in OfLinen.__doc__
    module = OfNNX(4, rngs=nnx.Rngs(0))
    assert module.momentum == 0.5 and module.factor == 2.0
    assert AlsoOfNNX(4, 2, rngs=nnx.Rngs(0)).num_groups == 2
    x = jax.numpy.ones((2, 4)).at[0, 0].set(0)
    both, first = (cls(4, 2, rngs=nnx.Rngs(0)) for cls in (Both, AlsoOfNNX))
    assert (both(x) == 2 * first(x)).all()
    assert OfEquinox(4)(x).shape == AlsoOfEquinox(4)(x).shape == module(x).shape
    for cls in (OfNNX, AlsoOfNNX, OfEquinox, AlsoOfEquinox):
        assert cls.__doc__ == "Mine."


def test_options_have_the_defaults_of_batch_norm():
    """Those that reach the other batch normalizers by keyword alone."""
    parameters = inspect.signature(jaxnorm.batch_norm).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
    del keywords["use_running_average"]  # which has none
    assert keywords == DEFAULTS
