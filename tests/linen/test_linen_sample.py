"""The modules of per-example normalizers do what those of `flax.linen` do."""

import dataclasses
import itertools

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.beside_flax import NEEDED, SHAPE, every_norm, pair, run, same
from support.drawing import place
from support.tiers import diagonal, matrix

import jaxnorm.linen

# Flax's classes raise under strict dtype promotion in half precision.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def x(rng):
    return place(rng.normal(size=SHAPE) * 2 + 1)


OPTIONS = {
    "defaults": {},
    "bfloat16 result": {"dtype": jnp.bfloat16, "epsilon": 1e-2},
    "bfloat16 parameters": {
        "param_dtype": jnp.bfloat16,
        "scale_init": nn.initializers.normal(),
        "use_fast_variance": False,
        "force_float32_reductions": False,
    },
    "no scale": {"use_scale": False, "epsilon": 0.1},
}
BIASES = {
    "no bias": {"use_bias": False},
    "initialized bias": {"bias_init": nn.initializers.uniform(), "use_scale": False},
}
AXES = {
    "two axes reduced": {"reduction_axes": (-1, 1)},
    "features of two axes": {"feature_axes": (1, -1)},
    "parameters across": {"reduction_axes": -1, "feature_axes": 1},
}
OWN = {
    "LayerNorm": BIASES | AXES,
    "RMSNorm": AXES,
    "GroupNorm": BIASES
    | {
        "group size": {"num_groups": None, "group_size": 2},
        "features alone": {"num_groups": 2, "reduction_axes": -1},
        "batch too": {"reduction_axes": (0, 2)},
    },
    "InstanceNorm": BIASES
    | {"channels first": {"feature_axes": 1}, "two": {"feature_axes": (-1, 1)}},
}
CASES = [(name, label) for name, own in OWN.items() for label in OPTIONS | own]
OFTEN = [
    ("LayerNorm", "defaults"),
    ("LayerNorm", "bfloat16 parameters"),
    ("LayerNorm", "initialized bias"),
    ("LayerNorm", "features of two axes"),
    ("RMSNorm", "bfloat16 result"),
    ("RMSNorm", "parameters across"),
    ("GroupNorm", "defaults"),
    ("GroupNorm", "group size"),
    ("GroupNorm", "batch too"),
    ("GroupNorm", "no bias"),
    ("InstanceNorm", "no scale"),
    ("InstanceNorm", "channels first"),
]


@pytest.mark.filterwarnings("ignore:each mean must be of at least two values")
@pytest.mark.parametrize(("name", "label"), matrix(CASES, OFTEN))
def test_same_tree_and_values_as_flax(name, label, x):
    options = (OPTIONS | OWN[name])[label]
    ours, flax = run(name, x, **options)
    same(ours, flax, 2e-2 if jnp.bfloat16 in options.values() else 1e-4)


@every_norm
def test_same_gradients_as_flax(name, x):
    ours, flax = run(name, x, gradients=True)
    same(ours, flax)


DTYPES = (jnp.bfloat16, jnp.complex64)


@pytest.mark.parametrize(
    ("name", "dtype"),
    matrix(itertools.product(NEEDED, DTYPES), often=diagonal(NEEDED, DTYPES)),
)
def test_same_as_flax_for_input_of(name, dtype, x):
    x = np.asarray(x).astype(dtype)
    if dtype == jnp.complex64:
        x = x + np.complex64(1j) * x[::-1]
    ours, flax = run(name, x)
    same(ours, flax, 2e-2)


INTEGERS = (jnp.int32, jnp.uint8, bool)


@pytest.mark.parametrize(
    ("name", "dtype"),
    matrix(itertools.product(NEEDED, INTEGERS), often=diagonal(NEEDED, INTEGERS)),
)
def test_integers_are_converted_as_in_flax(name, dtype, rng):
    use_scale = dtype == jnp.int32
    x = jax.device_put(rng.integers(0, 3, SHAPE).astype(dtype))
    ours, flax = run(name, x, use_scale=use_scale)
    same(ours, flax)


@every_norm
def test_the_arguments_of_flax_come_first(name, x):
    ours, flax = (
        {f.name: f.default for f in dataclasses.fields(cls)} for cls in pair(name)
    )
    for fields in ours, flax:  # which Flax adds to each module
        del fields["parent"], fields["name"]
    assert list(ours)[: len(flax)] == list(flax)
    # by default it follows scale_offset
    assert ours.pop("scale_init") is None
    assert flax.pop("scale_init") is nn.initializers.ones
    assert {key: ours[key] for key in flax} == flax


@every_norm
def test_positional_construction(name, x):
    groups = (None, 2) if name == "GroupNorm" else ()
    arguments = (*groups, 1e-2, jnp.bfloat16, jnp.float32, False)
    norms = [cls(*arguments) for cls in pair(name)]
    ours, flax = jax.jit(
        lambda key: [norm.init_with_output(key, x)[::-1] for norm in norms]
    )(jax.random.key(0))
    same(ours, flax, 2e-2)


class Model(nn.Module):
    """All of them after one another, automatically named."""

    source: object

    @nn.compact
    def __call__(self, x):
        for name, options in NEEDED.items():
            cls = getattr(self.source, name)
            x = cls(**options)(cls(**options)(nn.Dense(8)(x)))
        return x


def test_checkpoints_are_interchangeable(x, rng):
    key, models = jax.random.key(0), (Model(jaxnorm.linen), Model(nn))
    ours, flax = (
        jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(model.init, key, x),
        )
        for model in models
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    assert {f"{name}_{i}" for name in NEEDED for i in (0, 1)} < set(ours["params"])
    trained = jax.tree.map(
        lambda leaf: np.float32(rng.normal(0.7, 0.3, leaf.shape)), flax
    )
    loaded = flax_bytes_to(ours, trained)
    chex.assert_trees_all_equal(flax_bytes_to(flax, loaded), trained)
    y, expected = jax.jit(
        lambda *own: [model.apply(v, x) for model, v in zip(models, own, strict=True)]
    )(loaded, trained)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


def flax_bytes_to(template, variables):
    return flax.serialization.from_bytes(
        template, flax.serialization.to_bytes(variables)
    )


MASKS = (bool, jnp.float32)


@pytest.mark.parametrize(
    ("name", "dtype"),
    matrix(itertools.product(NEEDED, MASKS), often=diagonal(NEEDED, MASKS)),
)
def test_same_as_flax_with_a_mask(name, dtype, x, rng):
    # Its group norm takes no mask that is shared by the features.
    features = SHAPE[-1] if name == "GroupNorm" else 1
    mask = rng.uniform(size=(*SHAPE[:2], features)) < 0.7
    # of each statistic an element or two: where there is none, Flax gives NaN
    mask[:, :2] = True
    if name in ("LayerNorm", "RMSNorm"):
        mask = rng.uniform(size=SHAPE) < 0.7
        mask[..., 0] = True
    ours, flax = run(name, x, jax.device_put(mask.astype(dtype)))
    same(ours, flax)


def test_group_norm_of_one_example_without_an_axis_for_it(x):
    ours, flax = run("GroupNorm", jax.device_put(np.asarray(x)[0, 0]))
    same(ours, flax)
