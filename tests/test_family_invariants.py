"""What holds for every function of the family, whatever it computes."""

import collections
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import place
from support.family import KINDS, SHAPE, TABLE, cast, close, draw_arguments, draw_mask
from support.tiers import matrix

pytestmark = pytest.mark.usefixtures("annotations_checked")


@pytest.fixture(autouse=True, scope="module")
def little_optimization():
    """Nearly all time goes into compilation, which these tests do not look at."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# The same functions in all tests that compile, so that each is compiled once.
one_of_each_kind = pytest.mark.parametrize("name", matrix(TABLE, often=KINDS))

TRACES = collections.Counter()


def stack(*trees):
    """Each leaf of all, by NumPy: JAX would compile it for each shape."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@functools.cache
def jitted(name):
    """The function itself, compiled once for each dtype."""
    return jax.jit(TABLE[name].call)


@functools.cache
def compiled(name):
    """Gradients in x and params of a loss of the valid elements, y, and new state."""

    def loss(x, params, state, mask):
        TRACES[name] += 1
        y, new = TABLE[name].call(x, params, state, mask)
        used = y if mask is None else jnp.where(mask, y, 0)
        return jnp.sum(jnp.sin(used.astype(jnp.float32))), (y, new)

    def step(*arguments):
        gradients, (y, new) = jax.grad(loss, (0, 1), has_aux=True)(*arguments)
        return gradients, y, new

    return jax.jit(step)


@one_of_each_kind
def test_traces_once(name):
    entry, traces = TABLE[name], []
    for seed in range(2):
        compiled(name)(*draw_arguments(entry, seed), draw_mask(entry))
        traces.append(TRACES[name])
    assert traces[0] == traces[1] > 0


EMPTY = [(0, 0, 4), (0, 6, 4), (4, 0, 4)]


@pytest.mark.parametrize(
    "name, shape",
    matrix(itertools.product(TABLE, EMPTY), often=[(n, EMPTY[0]) for n in KINDS]),
)
def test_axes_of_size_zero(name, shape):
    """Of what an empty batch gives, test_batch_family_state.py says more."""
    _, params, state = draw_arguments(TABLE[name])
    x = jnp.zeros(shape)
    for mask in (None, jnp.ones(shape, bool)) if TABLE[name].masked else (None,):
        actual = jax.eval_shape(compiled(name), x, params, state, mask)
        chex.assert_trees_all_equal_shapes(actual, ((x, params), x, state))


# Without jit each operation is compiled by itself. Docstrings call every function so,
# and here one with the rule of the core and a state.
@pytest.mark.parametrize("name", matrix(TABLE, often=["batch_norm"]))
def test_jit_equals_eager(name):
    arguments = *draw_arguments(TABLE[name]), draw_mask(TABLE[name])
    _, *actual = compiled(name)(*arguments)
    close(tuple(actual), TABLE[name].call(*arguments))


@pytest.mark.parametrize(
    "name",
    matrix(
        TABLE,
        often=("batch_norm", "ghost_batch_norm", "layer_norm"),
    ),
)
def test_vmap_of_scan_of_checkpoint(name):
    """Models at once, steps with state as the carry, and x recomputed: as in loops."""
    entry, mask = TABLE[name], draw_mask(TABLE[name])
    models = [draw_arguments(entry, seed) for seed in range(2)]
    models = [(stack(x, 2 * np.asarray(x) - 1), *others) for x, *others in models]

    def together(xs, params, state):
        def step(params, state, x):
            y, state = entry.call(x, params, state, mask)
            return state, y

        def loss(xs, params):
            step_of = jax.checkpoint(functools.partial(step, params))
            new, ys = jax.lax.scan(step_of, state, xs)
            used = ys if mask is None else jnp.where(mask[None], ys, 0)
            return jnp.sum(jnp.sin(used)), (ys, new)

        return jax.grad(loss, (0, 1), has_aux=True)(xs, params)

    actual = jax.device_get(jax.jit(jax.vmap(together))(*stack(*models)))
    for i, (xs, params, state) in enumerate(models):
        steps = []
        for x in xs:
            gradients, y, state = compiled(name)(x, params, state, mask)
            steps.append((*gradients, y))
        dxs, dparams, ys = stack(*steps)
        dparams = jax.tree.map(lambda leaf: np.sum(leaf, 0), dparams)
        expected = (dxs, dparams), (ys, state)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], actual), expected, 1e-4)


@pytest.mark.parametrize(
    ("name", "narrow"),
    matrix(
        itertools.product(TABLE, (jnp.float32, jnp.bfloat16)),
        often=[
            ("batch_renorm", jnp.bfloat16),
            ("running_norm", jnp.float32),
            ("gated_rms_norm", jnp.bfloat16),
            ("causal_group_norm", jnp.float32),
            ("graph_norm", jnp.bfloat16),
            ("seed_norm", jnp.bfloat16),
            ("global_response_norm", jnp.float32),
            ("switchable_norm", jnp.bfloat16),
            ("spectral_norm", jnp.float32),
        ],
    ),
)
def test_float64_input_is_computed_in_float64(name, narrow, x64):
    """Whatever the dtypes of parameters and running statistics are."""
    entry = TABLE[name]
    x, params, state = draw_arguments(entry)
    state = jax.tree.map(lambda leaf: leaf * np.float32(1.1), state)  # no round number
    mask = draw_mask(entry)
    if mask is not None:  # one feature has no element
        mask = jax.device_put(np.asarray(mask) & (np.arange(SHAPE[-1]) != 1))
    training = functools.partial(entry.call, mask=mask)
    calls = [training]
    if entry.inference:
        calls.append(functools.partial(training, use_running_average=True))

    @jax.jit
    def run(x, params, state):
        return [call(x, params, state)[0] for call in calls]

    x, others = cast(x, jnp.float64), cast((params, state), narrow)
    close(run(x, *others), run(x, *cast(others, jnp.float64)), 1e-13)


# To the second order others have tests of their own: in test_derivatives.py,
# sample/test_own_moments_derivatives.py, sample/test_gated_rms_norm.py,
# sample/test_response_norms_under_transformations.py, and the files of weight. Some
# more are batch norm of other axes, statistics or features, with its rule.
@pytest.mark.parametrize(
    "name",
    matrix(
        TABLE,
        often=("batch_renorm", "virtual_batch_norm", "switchable_norm"),
    ),
)
def test_derivatives_are_those_of_the_values(name, x64, rng):
    """Forward mode against reverse mode, and both orders against differences."""
    entry = TABLE[name]
    x, params, state = draw_arguments(entry)
    mask, arguments = draw_mask(entry), cast((x, params), jnp.float64)
    in_inference = {} if entry.own_gradient else {"use_running_average": True}
    call = functools.partial(entry.call, **in_inference)

    def random(tree):
        return jax.tree.map(
            lambda leaf: jax.device_put(rng.normal(size=leaf.shape)), tree
        )

    def inner(a, b):
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)
        return jax.tree.reduce(jnp.add, products)

    def loss(x, params):
        y, new = call(x, params, cast(state, jnp.float64), mask)
        assert y.dtype == jnp.float64
        chex.assert_type(jax.tree.leaves(new), jnp.float64)
        return jnp.sum(weight * jnp.sin(y))

    def differentiate(direction, step=1e-5):
        def along(move):
            moved = jax.tree.map(lambda a, d: a + move * d, arguments, direction)
            return jax.value_and_grad(loss, (0, 1))(*moved)

        def with_tangents(move):
            return jax.jvp(along, (move,), (jnp.ones_like(move),))

        values, tangents = jax.vmap(with_tangents)(jnp.asarray([0, step, -step]))
        differences = jax.tree.map(lambda v: (v[1] - v[2]) / (2 * step), values)
        gradient, tangents = jax.tree.map(lambda v: v[0], (values[1], tangents))
        return differences, tangents, inner(gradient, direction)

    weight, direction = random(x), random(arguments)
    (slope, curvature), (tangent, product), reverse = jax.jit(differentiate)(direction)
    assert abs(float(tangent - reverse)) <= 1e-12 * max(1, abs(float(reverse)))
    assert abs(float(slope - reverse)) <= 1e-7 * max(1, abs(float(reverse)))
    chex.assert_tree_all_finite(product)
    if entry.own_hessian:
        close(product, curvature, 1e-6)


# bfloat16; others for the two ways to measure moments. (XLA may keep float32 between
# operations in bfloat16, so that only float16 shows what is rounded where.)
NARROW = [
    *((name, jnp.bfloat16) for name in KINDS),
    ("batch_norm", jnp.float16),
    ("layer_norm", jnp.float16),
    ("rms_norm", jnp.float16),
    ("batch_norm", jnp.float8_e5m2),
    ("layer_norm", jnp.float8_e4m3fn),
]
DTYPES = (jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2)


@pytest.mark.parametrize(
    ("name", "dtype"), matrix(itertools.product(TABLE, DTYPES), NARROW)
)
def test_half_precision(name, dtype):
    """Computed as in float32, and rounded once; the state is that of float32."""
    entry, mask = TABLE[name], draw_mask(TABLE[name])
    x, params, state = draw_arguments(entry)
    x, params = cast((x, params), dtype)
    y, new = jitted(name)(x, params, state, mask)
    gradients = jax.eval_shape(compiled(name), x, params, state, mask)[0]
    chex.assert_trees_all_equal_dtypes(gradients, (x, params))
    assert y.dtype == dtype
    arguments = cast((x, params), jnp.float32)
    _, wide, wide_new = compiled(name)(*arguments, state, mask)
    close(new, wide_new, 1e-5)
    unit = float(jnp.finfo(dtype).eps)
    least = float(jnp.finfo(dtype).smallest_subnormal)
    half_a_unit = 0.501 * unit * np.abs(oracles.wide(wide)) + 1e-5 + least / 2
    assert np.all(np.abs(oracles.wide(y) - oracles.wide(wide)) <= half_a_unit)


@one_of_each_kind
def test_float8_gives_way_to_every_other_dtype(name):
    """As of y, which `dtype` may say; JAX itself promotes it to none."""
    entry = TABLE[name]
    x, params, state = draw_arguments(entry)

    def dtype_of(x_dtype, params_dtype):
        arguments = cast(x, x_dtype), cast(params, params_dtype)
        y, new = jax.eval_shape(entry.call, *arguments, state, draw_mask(entry))
        chex.assert_trees_all_equal_dtypes(new, state)
        return y.dtype

    small, wide = jnp.float8_e4m3fn, jnp.bfloat16
    assert dtype_of(small, small) == small
    assert dtype_of(wide, small) == wide
    if params:
        assert dtype_of(small, wide) == wide


@one_of_each_kind
def test_complex(name, as_users_run_it):
    """Without imaginary part it is the same as real; or it is refused."""
    entry, mask = TABLE[name], draw_mask(TABLE[name])
    x, params, state = draw_arguments(entry)
    arguments = cast(x, jnp.complex64), params, state, mask
    if not entry.takes_complex:
        with pytest.raises(TypeError, match=r"must be real.* got complex64"):
            jax.eval_shape(entry.call, *arguments)
        return
    y, new = jitted(name)(*arguments)
    _, real, new_real = compiled(name)(x, params, state, mask)
    close(y, cast(real, jnp.complex64))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    close(cast(new, jnp.complex64), cast(new_real, jnp.complex64))


MASKED = [n for n in TABLE if TABLE[n].masked]


@pytest.mark.parametrize(
    "name", matrix(MASKED, often=[n for n in MASKED if n in KINDS])
)
def test_what_is_not_finite_under_the_mask_is_harmless(name):
    entry, mask = TABLE[name], draw_mask(TABLE[name])
    x, *others = *draw_arguments(entry), mask
    expected = jax.device_get(compiled(name)(x, *others))
    chex.assert_tree_all_finite(expected)
    x, mask, hidden = np.asarray(x), np.asarray(mask), []
    for bad in (x + 1, np.nan, np.inf, -np.inf, 1e30):
        x_with_bad = place(np.where(mask, x, bad))
        (dx, dparams), y, new = jax.device_get(compiled(name)(x_with_bad, *others))
        hidden.append(y[~mask])
        y = np.where(mask, y, expected[1])
        close(((dx, dparams), y, new), expected, 1e-6)
        np.testing.assert_array_equal(dx[~mask], 0)
    for values in hidden[2:]:  # all come out alike, the huge ones too
        np.testing.assert_array_equal(values, hidden[1])


# Without parameters y has the dtype of x, and so other cotangents.
@pytest.mark.parametrize(
    "name",
    matrix(
        (n for n in TABLE if TABLE[n].params),
        often=("batch_norm", "adaptive_batch_norm", "evo_norm_s0", "switchable_norm"),
    ),
)
def test_the_gradient_of_x_is_rounded_once(name):
    """That of bfloat16 is that of float32, whatever x is used for on the way to y."""
    (x, params, state), mask = draw_arguments(TABLE[name]), draw_mask(TABLE[name])
    x = cast(x, jnp.bfloat16)
    narrow, wide = (
        compiled(name)(x, params, state, mask)[0][0] for x in (x, cast(x, jnp.float32))
    )
    assert narrow.dtype == jnp.bfloat16 and wide.dtype == jnp.float32

    def rounding(dx):
        return np.sqrt(np.mean((oracles.wide(dx) - oracles.wide(wide)) ** 2))

    assert rounding(narrow) <= 1.05 * rounding(cast(wide, jnp.bfloat16))


# The rule of the core knows no derivative in a mask; of others JAX's would.
@pytest.mark.parametrize(
    "name",
    matrix(
        MASKED,
        often=("batch_norm", "evo_norm_b0", "global_response_norm", "switchable_norm"),
    ),
)
def test_weights_are_constants(name):
    """They weigh, and have no gradient."""
    entry = TABLE[name]
    arguments = draw_arguments(entry)
    weights = jnp.where(draw_mask(entry), 2.0, 0.5)

    def loss(weights):
        y, _ = entry.call(*arguments, weights)
        return jnp.sum(jnp.sin(y)), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(weights)
    np.testing.assert_array_equal(gradient, 0)
    assert np.all(np.isfinite(y))


@pytest.mark.parametrize("name", [n for n in TABLE if TABLE[n].inference])
def test_inference_hands_the_state_on(name):
    entry, same = TABLE[name], []

    def infer(x, params, state):
        y, new = entry.call(x, params, state, None, use_running_average=True)
        same.append(new is state)
        return y

    jax.eval_shape(infer, *draw_arguments(entry))
    assert same == [True]
