"""The modules of filter and global response norm, dynamic tanh and EvoNorm-S0."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import draw
from support.family_entries import program
from support.tiers import matrix

import jaxnorm
import jaxnorm.linen
from jaxnorm.linen import (
    DynamicErf,
    DynamicTanh,
    EvoNormS0,
    FilterResponseNorm,
    GlobalResponseNorm,
)

SHAPE = (3, 5, 4)


class Case(NamedTuple):
    module: type[nn.Module]
    options: dict
    function: str
    starts: dict  # of each parameter; all but alpha and shift are of the feature shape


CASES = {
    "filter_response_norm": Case(
        FilterResponseNorm,
        {"epsilon": 0.01},
        "filter_response_norm",
        {"scale": 1, "bias": 0, "threshold": 0},
    ),
    "filter response, all": Case(
        FilterResponseNorm,
        {"use_learned_epsilon": True},
        "filter_response_norm",
        {"scale": 1, "bias": 0, "threshold": 0, "learned_epsilon": 1e-4},
    ),
    "filter response, none": Case(
        FilterResponseNorm,
        {"use_scale": False, "use_bias": False, "use_threshold": False},
        "filter_response_norm",
        {},
    ),
    "global_response_norm": Case(
        GlobalResponseNorm,
        {"epsilon": 0.01},
        "global_response_norm",
        {"scale": 0, "bias": 0},
    ),
    "global response, no bias": Case(
        GlobalResponseNorm, {"use_bias": False}, "global_response_norm", {"scale": 0}
    ),
    "dynamic_tanh": Case(
        DynamicTanh, {}, "dynamic_tanh", {"alpha": 0.5, "scale": 1, "bias": 0}
    ),
    "dynamic tanh, alpha alone": Case(
        DynamicTanh,
        {"use_scale": False, "use_bias": False},
        "dynamic_tanh",
        {"alpha": 0.5},
    ),
    "dynamic_erf": Case(
        DynamicErf,
        {},
        "dynamic_erf",
        {"alpha": 0.5, "shift": 0, "scale": 1, "bias": 0},
    ),
    "evo_norm_s0": Case(
        EvoNormS0,
        {"num_groups": 2, "epsilon": 0.01},
        "evo_norm_s0",
        {"v": 1, "scale": 1, "bias": 0},
    ),
    "evo s0, no scale": Case(
        EvoNormS0,
        {"num_groups": 2, "use_scale": False},
        "evo_norm_s0",
        {"v": 1, "bias": 0},
    ),
}
OPTIONAL = {
    "filter_response_norm": ("scale", "bias", "threshold"),
    "global_response_norm": ("scale", "bias"),
    "dynamic_tanh": ("scale", "bias"),
    "dynamic_erf": ("scale", "bias"),
    "evo_norm_s0": ("scale", "bias"),
}
# Each module with all of its parameters.
WHOLE = {
    "filter response, all",
    "global_response_norm",
    "dynamic_tanh",
    "dynamic_erf",
    "evo_norm_s0",
}
KEY = jax.random.key(0)
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def call(case, x, params, **options):
    """The function of the module, with what it has for parameters."""
    options |= {k: v for k, v in case.options.items() if not k.startswith("use_")}
    params = dict.fromkeys(OPTIONAL[case.function]) | params
    return getattr(jaxnorm, case.function)(x, **params, **options)


PARAM_DTYPES = jnp.float32, jnp.bfloat16


@functools.cache
def initial():
    """Variables of all cases in both dtypes, from one program."""
    modules = {
        name: [case.module(**case.options, param_dtype=dtype) for dtype in PARAM_DTYPES]
        for name, case in CASES.items()
    }
    init = functools.partial(nn.Module.init, rngs=KEY, x=jnp.zeros(SHAPE))
    return jax.jit(lambda: jax.tree.map(init, modules))()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("param_dtype", PARAM_DTYPES)
def test_tree(name, param_dtype):
    variables = initial()[name][PARAM_DTYPES.index(param_dtype)]
    starts = CASES[name].starts
    shapes = {name: () if name in ("alpha", "shift") else SHAPE[-1:] for name in starts}
    expected = {
        name: np.full(shapes[name], start, param_dtype)
        for name, start in starts.items()
    }
    chex.assert_trees_all_equal(variables.get("params", {}), expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables.get("params", {}), expected)
    assert set(variables) <= {"params"}


@every
@pytest.mark.parametrize("feature_axes, masked", [(-1, True), (1, False)])
def test_values_and_gradients_are_those_of_the_function(
    case, feature_axes, masked, rng
):
    x = draw(rng, SHAPE if feature_axes == -1 else (3, 4, 5))
    norm = case.module(**case.options, feature_axes=feature_axes)
    params = jax.eval_shape(norm.init, KEY, x).get("params", {})
    params = {name: draw(rng, p.shape, loc=0.5) for name, p in params.items()}
    options = {}
    if masked and case.module not in (DynamicTanh, DynamicErf):
        options["mask"] = jax.device_put(np.arange(3).reshape(3, 1, 1) > 0)

    def ours(params, x):
        return norm.apply({"params": params}, x, **options)

    def expected(params, x):
        return call(case, x, params, feature_axes=feature_axes, **options)

    assert program(ours, params, x) == program(expected, params, x)


@every
def test_dtype_of_the_result(case):
    x = jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16)
    affine = {"scale", "bias"} & set(case.starts)
    for options in ({}, {"dtype": jnp.bfloat16}):
        norm = case.module(**case.options, **options)
        y, _ = jax.eval_shape(norm.init_with_output, KEY, x)
        wide = affine and not options
        assert y.dtype == (jnp.float32 if wide else jnp.bfloat16)


def test_initializers(rng):
    names = ("scale", "bias", "threshold", "learned_epsilon")
    options = {f"{n}_init": nn.initializers.constant(i) for i, n in enumerate(names)}
    norm = FilterResponseNorm(use_learned_epsilon=True, **options)
    params = jax.jit(norm.init)(KEY, draw(rng, SHAPE))["params"]
    for start, name in enumerate(names):
        np.testing.assert_array_equal(params[name], start)
    init = nn.initializers.constant(2)
    for cls, name in ((DynamicTanh, "alpha"), (DynamicErf, "shift"), (EvoNormS0, "v")):
        groups = {"num_groups": 2} if cls is EvoNormS0 else {}
        norm = cls(**{f"{name}_init": init}, **groups)
        params = jax.jit(norm.init)(KEY, draw(rng, SHAPE))["params"]
        np.testing.assert_array_equal(params[name], 2)


def test_two_feature_axes(rng):
    x = draw(rng, (3, 5, 4, 2))
    for cls in (FilterResponseNorm, GlobalResponseNorm, DynamicTanh):
        norm = cls(feature_axes=(-1, 1))
        params = jax.eval_shape(norm.init, KEY, x)["params"]
        assert params["scale"].shape == (5, 2)


def test_names_in_a_model(rng):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = EvoNormS0(num_groups=2)(FilterResponseNorm()(x))
            return DynamicTanh()(GlobalResponseNorm()(x))

    params = jax.eval_shape(Model().init, KEY, draw(rng, SHAPE))["params"]
    assert set(params) == {
        "EvoNormS0_0",
        "FilterResponseNorm_0",
        "DynamicTanh_0",
        "GlobalResponseNorm_0",
    }


@pytest.mark.parametrize(
    "name", matrix(CASES, often=("filter response, all", "dynamic_tanh"))
)
def test_lifted_transformations(name, rng):
    case = CASES[name]

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return case.module(**case.options)(x), None

    layers = nn.scan(
        nn.remat(Layer),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=2,
    )()
    x = draw(rng, SHAPE)
    variables = jax.tree.map(
        lambda leaf: draw(rng, leaf.shape, loc=0.5),
        jax.eval_shape(layers.init, KEY, x, None),
    )
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(layers.apply(v, x, None)[0] ** 2)))
    actual = gradient(variables)
    chex.assert_tree_all_finite(actual)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, variables)
