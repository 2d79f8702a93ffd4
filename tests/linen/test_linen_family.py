"""What holds for every module of `jaxnorm.linen`, whatever it computes."""

import collections
import copy
import functools
import pickle

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn
from support import family
from support.family import close
from support.family_entries import COLLECTIONS, program
from support.family_modules import TABLE, draw_variables
from support.refusals import refused
from support.tiers import matrix

import jaxnorm
import jaxnorm.linen

pytestmark = pytest.mark.usefixtures("annotations_checked")

# One of each kind: with statistics, without, with the parameters of a layer.
COMPILED = "BatchNorm", "GhostBatchNorm", "LayerNorm", "WeightNorm", "SpectralNorm"
every_module = pytest.mark.parametrize("name", TABLE)
# Of the others, the shapes and the program, which is that of the function; of the cell,
# test_linen_recurrent.py.
compiled_modules = pytest.mark.parametrize("name", matrix(TABLE, often=COMPILED))
OTHERS = [n for n in TABLE if n not in COMPILED]
other_modules = pytest.mark.parametrize("name", OTHERS)
KEY = jax.random.key(0)
STATEFUL = [
    name for name in TABLE if any("batch_stats" in path for path in TABLE[name].tree)
]


def test_the_table_is_complete():
    classes = {name for name in jaxnorm.linen.__all__ if name[0].isupper()}
    assert set(TABLE) == classes - {"LSTMCarry", "MaskedInputs"}


@every_module
def test_it_can_be_pickled_and_copied(name):
    """So that it can be sent to another process; defaults that are local cannot."""
    module = TABLE[name].build(True)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(other) is type(module)
        assert repr(other) == repr(module)  # all fields, and those of modules in them


@pytest.fixture(autouse=True, scope="module")
def little_optimization():
    """Nearly all time goes into compilation, which these tests do not look at."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def draw_x(seed=0):
    return family.draw_arguments(family.TABLE["rms_norm"], seed)[0]


def draw_mask(entry):
    return family.draw_mask(family.TABLE["rms_norm"]) if entry.masked else None


def kept(updates):
    """The collections that are not empty."""
    return {name: value for name, value in updates.items() if value}


def state_of(variables):
    return {name: variables[name] for name in COLLECTIONS if name in variables}


class Layer(nn.Module):
    """A module as it is called in lifted transformations."""

    norm: nn.Module
    name_in_table: str

    def __call__(self, x, mask):
        entry = TABLE[self.name_in_table]
        return self.norm(x, *entry.beside(x), **entry.keywords(mask, True)), None


def apply_layer(layer, variables, x, mask):
    within = {name: {"norm": value} for name, value in variables.items()}
    (y, _), updates = layer.apply(within, x, mask, mutable=COLLECTIONS)
    return y, {name: value["norm"] for name, value in kept(updates).items()}


TRACES = collections.Counter()


def forwards(name, mask, remat=True):
    """The module, and the function if it has one: (variables, x) -> y, collections."""
    entry = TABLE[name]
    layer = (nn.remat(Layer) if remat else Layer)(entry.build(True), name)
    own = functools.partial(apply_layer, layer, mask=mask)
    function = entry.compute and functools.partial(entry.compute, mask=mask)
    return own, function


def differentiate(forward, variables, x, cotangent):
    """y, updates and gradients."""

    def of_params(params, x):
        return forward({**variables, "params": params}, x=x)

    y, pullback, updates = jax.vjp(of_params, variables["params"], x, has_aux=True)
    return y, updates, pullback(cotangent)


def infer(name, variables, x, mask):
    entry = TABLE[name]
    # with a mutable reference, it would be collected
    y, after = entry.apply(
        entry.build(False), variables, x, mask, train=False, mutable=["batch_stats"]
    )
    return y, kept(after)


@functools.cache
def compiled(name):
    """y, updates and gradients of the module and of the function; and inference."""

    def step(variables, x, mask, cotangent):
        TRACES[name] += 1
        results = [
            differentiate(forward, variables, x, cotangent)
            for forward in filter(None, forwards(name, mask))
        ]
        return results, infer(name, variables, x, mask)

    return jax.jit(step)


@every_module
def test_initial_variables(name):
    """Names, shapes and dtypes; no statistic has moved, and no axis is needed."""
    entry = TABLE[name]
    module = entry.build(
        True, **{"axis_name": "elsewhere"} if entry.synchronizes else {}
    )

    def init(key):
        return entry.init(module, key, draw_x())

    variables = jax.eval_shape(init, KEY)
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    tree = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }
    assert {k: f"{v.dtype} {v.shape}" for k, v in tree.items()} == entry.tree
    if name in STATEFUL and not entry.updates:
        initial = {"var": 1, "std": 1}
        stats = jax.jit(lambda key: init(key)["batch_stats"])(KEY)
        for path, leaf in jax.tree_util.tree_flatten_with_path(stats)[0]:
            np.testing.assert_array_equal(leaf, initial.get(path[-1].key, 0))
    if entry.synchronizes:
        with pytest.raises(NameError, match="elsewhere"):
            jax.eval_shape(
                functools.partial(entry.apply, module, mutable=COLLECTIONS),
                variables,
                draw_x(),
            )


# The statistics of the wrapper are behind a stop_gradient: see test_one_step.
@pytest.mark.parametrize(
    "name", [n for n in TABLE if TABLE[n].compute and n != "SpectralNorm"]
)
def test_the_program_is_that_of_the_function(name):
    """So values and gradients are; in inference, where the function knows it, too."""
    entry = TABLE[name]
    mask, x = draw_mask(entry), draw_x()
    variables = draw_variables(name, x)
    own, function = forwards(name, mask, remat=False)
    assert program(own, variables, x) == program(function, variables, x)
    inferred = functools.partial(infer, name, mask=mask)
    if entry.function and family.TABLE[entry.function].inference:
        compute = functools.partial(entry.compute, mask=mask, use_running_average=True)
        assert program(inferred, variables, x) == program(compute, variables, x)
    else:
        y, after = jax.eval_shape(inferred, variables, x)
        assert (y.shape, y.dtype) == (x.shape, x.dtype) and not after


@compiled_modules
def test_one_step(name):
    """As of the function, with remat too; inference stores nothing; traced once."""
    entry, traces = TABLE[name], []
    mask, x = draw_mask(entry), draw_x()
    variables = draw_variables(name, x)
    for _ in range(2):
        (own, *function), (inferred, after) = compiled(name)(
            variables, x, mask, np.cos(x)
        )
        traces.append(TRACES[name])
        y, updates, (gradients, dx) = own
        chex.assert_trees_all_equal_structs(updates, state_of(variables))
        for expected in function:
            close(own, expected)
        chex.assert_tree_all_finite((gradients, dx, inferred))
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves((gradients, dx)))
        old = state_of(variables)
        if "batch_stats" in old:
            chex.assert_trees_all_equal(after, old)
            moved = jax.tree.leaves(updates), jax.tree.leaves(old)
            assert all(np.any(a != b) for a, b in zip(*moved, strict=True))
            assert entry.updates or np.any(inferred != y)
        variables, x = {**variables, **updates}, jax.device_put(2 * np.asarray(x) - 1)
    assert traces[0] == traces[1] > 0


@pytest.mark.parametrize(
    "name",
    matrix(
        STATEFUL,
        often=("BatchNorm", "RecurrentBatchNorm", "RunningNorm", "SpectralNorm"),
    ),
)
def test_training_needs_mutable_statistics_and_inference_none(name):
    entry, x = TABLE[name], draw_x()
    variables = draw_variables(name, x)
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        jax.eval_shape(functools.partial(entry.apply, entry.build(True)), variables, x)
    infer = functools.partial(entry.apply, entry.build(False), train=False)
    assert jax.eval_shape(infer, variables, x).shape == x.shape


def stack(trees):
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *trees)


def draw_stacked(name, x):
    """Variables of two layers of two models, and all of them stacked."""
    drawn = [[draw_variables(name, x, 2 * i + j) for j in range(2)] for i in range(2)]
    return drawn, stack([stack(models) for models in drawn])


def scan_of_vmap(name):
    axes = {"variable_axes": dict.fromkeys(("params", *COLLECTIONS), 0)}
    axes["split_rngs"] = {"params": True}
    lifted = nn.vmap(nn.remat(Layer), in_axes=(0, None), **axes)
    lifted = nn.scan(lifted, in_axes=nn.broadcast, length=2, **axes)
    layer = lifted(norm=TABLE[name].build(True), name_in_table=name)
    return functools.partial(apply_layer, layer, mask=draw_mask(TABLE[name]))


# Tracing a scan takes long.
@pytest.mark.parametrize(
    "name",
    matrix(
        OTHERS,
        often=(
            "BatchRenorm",
            "RecurrentBatchNorm",
            "VirtualBatchNorm",
            "RunningNorm",
            "SwitchableNorm",
            "GroupNorm",
            "UnitNorm",
            "WeightStandardization",
        ),
    ),
)
def test_shapes_of_scan_over_layers_of_vmap_over_models(name):
    x = draw_x()
    variables = draw_variables(name, x)

    def widen(tree, *axes):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), tree
        )

    models = widen(x, 2)
    actual = jax.eval_shape(scan_of_vmap(name), widen(variables, 2, 2), x=models)
    expected = models, widen(state_of(variables), 2, 2)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)


@compiled_modules
def test_scan_over_layers_of_vmap_over_models(name):
    """As in loops, the statistics too."""
    mask = draw_mask(TABLE[name])
    models = [draw_x(seed) for seed in range(2)]
    drawn, variables = draw_stacked(name, models[0])
    actual, updates = jax.jit(scan_of_vmap(name))(variables, x=stack(models))
    for j, y in enumerate(models):
        for i in range(2):
            ((y, expected, _), *_), _ = compiled(name)(drawn[i][j], y, mask, y)
            own = jax.tree.map(lambda leaf, i=i, j=j: np.asarray(leaf)[i, j], updates)
            close(own, expected, 1e-4)
        close(np.asarray(actual)[j], y, 1e-4)


@other_modules
def test_dtypes_of_a_bfloat16_result(name):
    entry, x = TABLE[name], draw_x()
    variables = draw_variables(name, x)
    apply = functools.partial(
        entry.apply, entry.build(True, dtype=jnp.bfloat16), mutable=COLLECTIONS
    )
    y, updates = jax.eval_shape(apply, variables, x, draw_mask(entry))
    assert (y.shape, y.dtype) == (x.shape, jnp.bfloat16)
    chex.assert_trees_all_equal_shapes_and_dtypes(kept(updates), state_of(variables))


@compiled_modules
def test_bfloat16_result(name):
    """y alone is rounded; the statistics are those of float32."""
    entry, mask, x = TABLE[name], draw_mask(TABLE[name]), draw_x()
    variables = draw_variables(name, x)
    module = entry.build(True, dtype=jnp.bfloat16)
    apply = functools.partial(entry.apply, module, mutable=COLLECTIONS)
    y, updates = jax.jit(apply)(variables, x, mask)
    ((wide, wide_updates, _), *_), _ = compiled(name)(variables, x, mask, x)
    assert y.dtype == jnp.bfloat16
    chex.assert_trees_all_equal_shapes_and_dtypes(kept(updates), wide_updates)
    if entry.rounds_once:
        close(kept(updates), wide_updates, 1e-5)
        half_a_unit = 2**-8 * np.abs(oracles.wide(wide)) + 1e-5
        assert np.all(np.abs(oracles.wide(y) - oracles.wide(wide)) <= half_a_unit)
    else:
        close(np.asarray(y, np.float32), wide, 3e-2)


@every_module
def test_integers(name, as_users_run_it):
    """They become float32; or they are refused; or a wrapped layer converts them."""
    entry, x = TABLE[name], draw_x()
    apply = functools.partial(entry.apply, entry.build(True), mutable=COLLECTIONS)
    arguments = draw_variables(name, x), np.int32(3 * np.asarray(x))
    if entry.integers is False:
        with refused("must be floating or complex", "int32", "astype"):
            jax.eval_shape(apply, *arguments)
        return
    # Flax's layers convert them by the standard promotion.
    promotion = "strict" if entry.integers else "standard"
    with jax.numpy_dtype_promotion(promotion):
        assert jax.eval_shape(apply, *arguments)[0].dtype == jnp.float32


OFFSET = [n for n in TABLE if hasattr(TABLE[n].build(True), "scale_offset")]


# Often with one of each file of layers; NNX has the same program for each.
@pytest.mark.parametrize(
    "name",
    matrix(OFFSET, often=("LayerNorm", "RMSNorm", "GroupNorm", "SegmentRMSNorm")),
)
def test_scale_offset(name):
    """The layer starts at a factor of 1; what is stored is the distance from there."""
    x = draw_x()
    given = x, *TABLE[name].beside(x)
    zero, one = (TABLE[name].build(True, scale_offset=s) for s in (0.0, 1.0))

    @jax.jit
    def run(key):
        (whole, variables), (same, shifted) = (
            module.init_with_output(key, *given) for module in (zero, one)
        )
        moved = jax.tree.map(lambda leaf: leaf + 0.5, (variables, shifted))
        applied = [zero.apply(moved[0], *given), one.apply(moved[1], *given)]
        return variables, shifted, whole, same, applied

    variables, shifted, whole, same, applied = run(KEY)
    np.testing.assert_array_equal(variables["params"]["scale"], 1)
    np.testing.assert_array_equal(shifted["params"]["scale"], 0)
    close(same, whole)
    close(*applied)


# Some with parameters, and one without.
@pytest.mark.parametrize(
    "name",
    matrix(
        (n for n in TABLE if TABLE[n].function),
        often=("BatchNorm", "RMSNorm", "EvoNormS0", "UnitNorm"),
    ),
)
def test_float8_input(name):
    """The parameters are in float32, and so is y; without any, it is as x."""
    entry, x = TABLE[name], draw_x().astype(jnp.float8_e4m3fn)
    init = functools.partial(entry.init, entry.build(True), KEY)
    apply = functools.partial(entry.apply, entry.build(True), mutable=COLLECTIONS)
    y, _ = jax.eval_shape(apply, jax.eval_shape(init, x), x)
    learns = any(path.startswith("params") for path in entry.tree)
    assert y.dtype == (jnp.float32 if learns else x.dtype)
