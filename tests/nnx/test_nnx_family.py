"""What holds for every module of `jaxnorm.nnx`: it is the Linen module, in NNX."""

import copy
import functools
import inspect
import itertools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from support import family
from support.drawing import place
from support.family import close
from support.nnx_modules import (
    NAMES,
    TABLE,
    WIDTH,
    build,
    call,
    draw_variables,
    flatten,
    load,
    program,
    values,
    variables_of,
    view_of,
)
from support.refusals import refused
from support.tiers import matrix

import jaxnorm.nnx
from jaxnorm.nnx.module import Module

pytestmark = pytest.mark.usefixtures("annotations_checked")

every_module = pytest.mark.parametrize("name", NAMES)
# One of each kind; of the others, the program is compared.
COMPILED = "BatchNorm", "LayerNorm", "WeightNorm", "SpectralNorm"
OVER_TIME = "BatchNormLSTMCell"  # see test_nnx_recurrent.py


@pytest.fixture(autouse=True, scope="module")
def little_optimization():
    """Nearly all time goes into compilation, which these tests do not look at."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_the_family_is_complete():
    exported = {name: getattr(jaxnorm.nnx, name) for name in jaxnorm.nnx.__all__}
    modules = {
        name
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, nnx.Module)
    }
    assert modules == set(NAMES) == set(TABLE)


@every_module
def test_it_can_be_pickled_and_copied(name):
    module = build(name)
    graph, state = nnx.split(module)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        same, own = nnx.split(other)
        assert same == graph
        chex.assert_trees_all_equal(own, state)


def draw_x(seed=0):
    return family.draw_arguments(family.TABLE["rms_norm"], seed)[0]


def draw_mask(entry):
    return family.draw_mask(family.TABLE["rms_norm"]) if entry.masked else None


def linen_step(name, variables, x, mask, cotangent):
    """y, updates and gradients in training; and y in inference."""
    entry = TABLE[name]

    def forward(params, x):
        variables_now = {**variables, "params": params}
        return entry.apply(
            entry.build(True), variables_now, x, mask, mutable=["batch_stats"]
        )

    y, pullback, updates = jax.vjp(forward, variables["params"], x, has_aux=True)
    inferred = entry.apply(entry.build(False), variables, x, mask, train=False)
    return y, updates, pullback(cotangent), inferred


def nnx_step(name, module, x, mask, cotangent):
    inferred = call(name, nnx.view(module, **view_of(name)), x, mask)

    def loss(module, x):
        y = call(name, module, x, mask)
        return jnp.sum(y * cotangent), y

    gradients, y = nnx.grad(loss, argnums=(0, 1), has_aux=True)(module, x)
    return y, gradients, inferred


def arguments(name):
    """Variables, x, mask, with NaN under the mask."""
    x, mask = draw_x(), draw_mask(TABLE[name])
    variables = draw_variables(name, x)
    if mask is not None:
        x = jax.device_put(np.where(mask, x, np.float32(np.nan)))
    return variables, x, mask


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*COMPILED, OVER_TIME)])
def test_the_program_is_that_of_linen(name):
    """In training, with the statistics, and in inference, which leaves them."""
    entry = TABLE[name]

    def own(variables, x, mask):
        module = load(build(name), variables)
        inferred = call(name, nnx.view(module, **view_of(name)), x, mask)
        kept = values(module)
        return inferred, kept, call(name, module, x, mask), values(module)

    def linen(variables, x, mask):
        inferred = entry.apply(entry.build(False), variables, x, mask, train=False)
        y, updates = entry.apply(
            entry.build(True), variables, x, mask, mutable=["batch_stats"]
        )
        after = {**variables, **updates}
        return inferred, flatten(variables), y, flatten(after)

    assert program(own, *arguments(name)) == program(linen, *arguments(name))


@pytest.mark.parametrize(
    "name",
    matrix(NAMES, often=COMPILED),
)
def test_as_in_linen(name):
    """Values, statistics and gradients, with NaN under the mask; traced once."""
    traces, (variables, x, mask) = [], arguments(name)
    module = load(build(name), variables)
    cotangent = place(np.cos(np.arange(x.size)).reshape(x.shape))

    @nnx.jit
    def step(module, x, mask):
        traces.append(name)
        return nnx_step(name, module, x, mask, cotangent)

    expect = jax.jit(lambda *args: linen_step(name, *args, cotangent))
    for _ in range(2):
        before = values(module)
        y, (gradients, dx), inferred = step(module, x, mask)
        expected_y, updates, expected_gradients, expected_inferred = expect(
            variables, x, mask
        )
        close(y, expected_y)
        close(inferred, expected_inferred)
        close(dx, expected_gradients[1])
        own = {k: v[...] for k, v in variables_of(gradients).items()}
        close(own, flatten({"params": expected_gradients[0]}))
        variables = {**variables, **updates}
        close(values(module), flatten(variables))
        assert values(module).keys() == before.keys()
        x = jax.device_put(2 * np.asarray(x) - 1)
    assert len(traces) == 1
    if "batch_stats" in variables:
        moved = {k for k, v in values(module).items() if np.any(v != before[k])}
        assert moved == {k for k in before if k.startswith("batch_stats")}


NORMS = [n for n in NAMES if issubclass(getattr(jaxnorm.nnx, n), Module)]
WITHOUT = {"use_scale": False, "use_bias": False}


# What a class has not, and so takes no option for.
FIXED = {
    "RMSNorm": {"use_bias"},
    "GatedRMSNorm": {"use_bias"},
    "SegmentRMSNorm": {"use_bias"},
    "SeedNorm": {"use_bias"},
    "MeanOnlyBatchNorm": {"use_scale"},
    "RunningNorm": {"use_scale", "use_bias"},
}


@pytest.mark.parametrize(
    ("name", "learns"),
    matrix(
        itertools.product(NORMS, (True, False)),
        often=[*((n, False) for n in NORMS), ("BatchNorm", True), ("RMSNorm", True)],
    ),
)
def test_another_number_of_features(name, learns):
    """It is refused, where no parameter has a shape that does not fit as well."""
    options = {} if learns else WITHOUT
    fixed = FIXED.get(name, set())
    module = build(name, **{k: v for k, v in options.items() if k not in fixed})
    x = draw_x()
    for wrong in (x[..., :2], jnp.concatenate([x, x], -1)):
        says = f"num_features={WIDTH}", str(wrong.shape[-1]), str(wrong.shape)
        if name == "InstanceBatchNorm" and options:  # whose statistics are of a part
            says = ("stats.mean",)
        with refused(*says):
            jax.eval_shape(lambda x: call(name, module, x), wrong)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "DynamicTanh"])
def test_one_feature_is_not_spread(name):
    """A scale of shape (1,) would broadcast against an input of rank 1."""
    module = getattr(jaxnorm.nnx, name)(1, rngs=nnx.Rngs(0))
    with refused("num_features=1", "3"):
        jax.eval_shape(module, jnp.ones(3))


@pytest.mark.parametrize("name", ["LayerNorm", "InstanceNorm", "BatchNorm"])
def test_features_may_lie_on_several_devices(name):
    """Parameters and statistics are then a part of what the layer was made for."""
    options = {"axis_name": "i"} if name == "LayerNorm" else {}
    graphdef, state = nnx.split(build(name, **options))

    def part(state, x):
        return call(name, nnx.merge(graphdef, state), x)

    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    last = P(None, None, "i")
    mapped = jax.shard_map(part, mesh=mesh, in_specs=(P("i"), last), out_specs=last)
    x = draw_x()
    close(
        jax.jit(mapped)(state, x),
        jax.jit(functools.partial(call, name))(build(name), x),
    )


def test_one_scale_an_example():
    norm, x = build("LayerNorm"), draw_x()
    norm.scale.set_value(jnp.full((len(x), 1, 1), 2.0))
    norm.bias.set_value(jnp.zeros((len(x), 1, 1)))
    assert jax.eval_shape(norm, x).shape == x.shape


@pytest.mark.parametrize("include_self", matrix((True, False), often=[True]))
def test_virtual_batch_norm_needs_a_reference(include_self):
    norm, x = build("VirtualBatchNorm", include_self=include_self), draw_x()
    with refused("VirtualBatchNorm", "reference batch", "collect_reference=True"):
        norm(x)
    assert np.all(np.isnan(nnx.jit(lambda norm, x: norm(x))(norm, x)))
    nnx.jit(lambda norm, x: nnx.view(norm, collect_reference=True)(x))(norm, x)
    assert np.all(np.isfinite(norm(x)))


def takes_scale_offset(name):
    return "scale_offset" in inspect.signature(getattr(jaxnorm.nnx, name)).parameters


OFFSET = [name for name in NAMES if takes_scale_offset(name)]


@pytest.mark.parametrize("name", OFFSET)
def test_scale_offset(name):
    """As in Linen, whose test looks at values."""
    module, (variables, x, _) = build(name, scale_offset=0.5), arguments(name)
    np.testing.assert_array_equal(module.scale[...], 0.5)
    linen = TABLE[name].build(True, scale_offset=0.5)

    def own(variables, x):
        return call(name, load(build(name, scale_offset=0.5), variables), x)

    def expected(variables, x):
        return TABLE[name].apply(linen, variables, x)

    assert program(own, variables, x) == program(expected, variables, x)


def test_scale_offset_is_of_the_same_modules_as_in_linen():
    assert {"LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"} < set(OFFSET)
    linen = {n for n in TABLE if hasattr(TABLE[n].build(True), "scale_offset")}
    assert set(OFFSET) == linen


@every_module
def test_split_merge_and_abstract_construction(name):
    module = build(name)
    graphdef, state = nnx.split(module)
    assert nnx.split(build(name))[0] == graphdef  # and so is traced once
    assert hash(graphdef) == hash(nnx.split(nnx.merge(graphdef, state))[0])
    abstract = nnx.eval_shape(lambda: build(name))
    shapes = {k: (v.shape, v.dtype) for k, v in variables_of(abstract).items()}
    assert {k: (v.shape, v.dtype) for k, v in values(module).items()} == shapes
    tree = {k: f"{dtype} {shape}" for k, (shape, dtype) in shapes.items()}
    assert tree == TABLE[name].tree


@pytest.mark.parametrize("name", [n for n in NAMES if TABLE[n].synchronizes])
def test_axis_name_is_handed_on(name):
    def run(x):
        return call(name, build(name, axis_name=["elsewhere"]), x)

    with pytest.raises(NameError, match="elsewhere"):
        jax.eval_shape(run, draw_x())


@pytest.mark.parametrize(
    "name",
    matrix(
        NAMES,
        often=(
            "BatchNorm",
            "BatchRenorm",
            "VirtualBatchNorm",
            "SwitchableNorm",
            "BatchNormLSTMCell",
            "GroupNorm",
            "GlobalResponseNorm",
            "UnitNorm",
            "WeightNorm",
            "SpectralNorm",
        ),
    ),
)
def test_bfloat16_result_and_float32_statistics(name):
    """With Flax's promote_dtype, which rounds the input, as well."""
    x = draw_x()
    promotions = [{}]
    if hasattr(build(name), "promote_dtype"):
        promotions.append({"promote_dtype": nnx.nn.dtypes.promote_dtype})
    for promotion in promotions:
        module = build(name, dtype=jnp.bfloat16, **promotion)

        def train_and_infer(state, module=module):
            copy = nnx.merge(nnx.graphdef(module), state)
            y = call(name, copy, x)
            inferred = call(name, nnx.view(copy, **view_of(name)), x)
            return y, inferred, nnx.state(copy)

        state = nnx.state(module)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            y, inferred, after = jax.eval_shape(train_and_infer, state)
        wrapper = name in ("WeightNorm", "WeightStandardization", "SpectralNorm")
        assert y.dtype == inferred.dtype == (jnp.float32 if wrapper else jnp.bfloat16)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize(
    "name",
    matrix(
        (
            "BatchNorm",
            "BatchRenorm",
            "GhostBatchNorm",
            "RecurrentBatchNorm",
            "EvoNormB0",
        ),
        often=("BatchNorm", "RecurrentBatchNorm", "EvoNormB0"),
    ),
)
def test_statistics_over_eight_devices_equal_those_of_one(name):
    """Eight devices, one of them empty, are one."""
    rng = np.random.default_rng(0)
    mask = np.arange(16).reshape(16, 1, 1) < 14
    x = np.where(mask, rng.normal(1, 2, (16, 3, 4)), np.nan)
    x, mask = place(x), jax.device_put(mask)
    alone = load(build(name), draw_variables(name, x))
    y = nnx.jit(lambda module: call(name, module, x, mask))(alone)
    shared = load(build(name, axis_name="i"), draw_variables(name, x))
    graphdef, state = nnx.split(shared)

    def step(state, x, mask):
        copy = nnx.merge(graphdef, state)
        y = call(name, copy, x, mask)
        return y, nnx.state(copy)

    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    split = P("i"), P()
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P("i"), P("i")), out_specs=split
    )
    actual, after = jax.jit(mapped)(state, x, mask)
    nnx.update(shared, after)
    close(values(shared), values(alone))
    close(np.asarray(actual)[:14], np.asarray(y)[:14])


# Some with parameters, and one without.
@pytest.mark.parametrize(
    "name",
    matrix(
        (n for n in NAMES if TABLE[n].function),
        often=("BatchNorm", "RMSNorm", "EvoNormS0", "UnitNorm"),
    ),
)
def test_float8_input(name):
    """The parameters are in float32, and so is y; without any, it is as x."""
    x = draw_x().astype(jnp.float8_e4m3fn)
    y = jax.eval_shape(lambda x: call(name, build(name), x), x)
    learns = any(path.startswith("params") for path in TABLE[name].tree)
    assert y.dtype == (jnp.float32 if learns else x.dtype)
