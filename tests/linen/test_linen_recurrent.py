"""`RecurrentBatchNorm` and `BatchNormLSTMCell` over time."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn
from support.drawing import place
from support.refusals import refused
from support.tiers import matrix

import jaxnorm.linen

BATCH, TIME, INPUTS, FEATURES, STEPS = 6, 4, 3, 2, 5
MOMENTUM, EPSILON = 0.5, 1e-3
KEY = jax.random.key(0)


def build(train=True, **options):
    cell = jaxnorm.linen.BatchNormLSTMCell(
        FEATURES,
        max_steps=STEPS,
        use_running_average=not train,
        momentum=MOMENTUM,
        epsilon=EPSILON,
        **options,
    )
    if train:
        return nn.RNN(cell, variable_carry="batch_stats")
    return nn.RNN(cell, variable_broadcast=("params", "batch_stats"))


@functools.cache
def shapes():
    x = jnp.zeros((BATCH, TIME, INPUTS))
    return jax.eval_shape(build().init, KEY, x)


@pytest.fixture
def x(rng):
    return place(rng.normal(0.5, 1, (BATCH, TIME, INPUTS)))


@pytest.fixture
def variables(rng):
    """Those of a trained network: no two numbers are alike."""

    def draw(path, leaf):
        low, high = (-0.7, 0.9) if path[-1].key == "kernel" else (0.3, 1.5)
        return place(rng.uniform(low, high, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes())


def start(lengths):
    shape = (BATCH, FEATURES)
    return jaxnorm.linen.LSTMCarry(
        jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(BATCH, jnp.int32), lengths
    )


def traced_run(variables, x, lengths=None, train=True):
    """y, the last carry, and the statistics."""
    lengths = jnp.asarray(np.full(BATCH, TIME) if lengths is None else lengths)
    (carry, y), updates = build(train).apply(
        variables,
        x,
        initial_carry=start(lengths),
        seq_lengths=lengths,
        return_carry=True,
        mutable=["batch_stats"],
    )
    return y, carry, updates.get("batch_stats") or variables["batch_stats"]


compiled_run = jax.jit(traced_run, static_argnames="train")


def run(variables, x, lengths=None, train=True):
    """As above, compiled, and in NumPy."""
    lengths = np.full(BATCH, TIME) if lengths is None else lengths
    return jax.device_get(compiled_run(variables, x, lengths, train=train))


def oracle_lstm(variables, x, lengths, train):
    """Cooijmans' equations in float64: y, the last carry of each, and statistics."""
    params, stats = jax.tree.map(
        oracles.wide, (variables["params"]["cell"], variables["batch_stats"]["cell"])
    )
    stats = jax.tree.map(np.copy, stats)
    x = oracles.wide(x)

    def norm(name, value, step, bias=None):
        own, valid = stats[name], (step < lengths)[:, None]
        y, mean, var = oracles.batch_norm(
            value,
            own["mean"][step],
            own["var"][step],
            params[name]["scale"],
            bias,
            mask=valid,
            momentum=MOMENTUM,
            epsilon=EPSILON,
            use_running_average=not train,
        )
        own["mean"][step], own["var"][step] = mean, var
        return y

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    c = h = np.zeros((BATCH, FEATURES))
    ys, cs = [], []
    for step in range(x.shape[1]):
        gates = norm("norm_h", h @ params["recurrent"]["kernel"], step)
        gates = gates + norm("norm_x", x[:, step] @ params["input"]["kernel"], step)
        f, i, o, g = np.split(gates + params["bias"], 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(norm("norm_c", c, step, params["norm_c"]["bias"]))
        ys.append(h)
        cs.append(c)
    last = np.arange(BATCH), np.asarray(lengths) - 1
    ys, cs = np.stack(ys, 1), np.stack(cs, 1)
    return ys, (cs[last], ys[last]), stats


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("lengths", [[4] * 6, [4, 1, 3, 2, 4, 3], [2, 1, 2, 2, 1, 2]])
def test_oracle(lengths, train, x, variables):
    """With the carry of each sequence at its own end; unvisited steps do not move."""
    lengths = np.asarray(lengths)
    y, carry, stats = run(variables, x, lengths, train=train)
    expected, (c, h), moved = oracle_lstm(variables, x, lengths, train)
    valid = np.arange(TIME) < lengths[:, None]
    assert oracles.error(y[valid], expected[valid]) <= 1e-5
    assert oracles.error(carry.c, c) <= 1e-5
    assert oracles.error(carry.h, h) <= 1e-5
    for actual, wanted in zip(
        *map(jax.tree.leaves, (stats["cell"], moved)), strict=True
    ):
        assert oracles.error(actual, wanted) <= 1e-5
    visited = int(max(lengths)) if train else 0
    both = jax.device_get((stats, variables["batch_stats"]))
    beyond = jax.tree.map(lambda leaf: leaf[visited:], both)
    chex.assert_trees_all_equal(*beyond)
    if train:
        within = jax.tree.map(lambda leaf: leaf[:visited], both)
        changed = jax.tree.map(lambda a, b: np.any(a != b), *within)
        assert all(jax.tree.leaves(changed))


def test_padding_has_no_effect(x, variables):
    lengths = np.asarray([4, 1, 3, 2, 4, 3])
    valid = np.arange(TIME)[None] < lengths[:, None]

    @jax.jit
    def step(params, x):
        def loss(params, x):
            y, _, stats = traced_run({**variables, "params": params}, x, lengths)
            y = jnp.where(valid[..., None], y, 0)
            return jnp.sum(jnp.sin(y)), (y, stats)

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    expected = step(variables["params"], x)
    chex.assert_tree_all_finite(expected)
    for bad in (7.0, np.nan):
        padded = np.where(valid[..., None], x, np.float32(bad))
        (dparams, dx), values = jax.device_get(step(variables["params"], padded))
        chex.assert_trees_all_close(values, expected[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(dx[~valid], 0)
        if bad == 7.0:  # 0 times NaN is NaN in the kernel of W_x, as in any layer
            chex.assert_trees_all_close(dparams, expected[0][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("reverse", "time_major"),
    matrix(
        itertools.product((False, True), (False, True)),
        often=[(True, False), (False, True)],
    ),
)
def test_a_mask_comes_with_the_inputs(reverse, time_major, x, variables):
    """As lengths in the carry do; whatever the padding holds."""
    lengths = jax.device_put(np.array([4, 1, 3, 2, 4, 3]))
    mask = (np.arange(TIME) < np.asarray(lengths)[:, None])[..., None]
    options = {"reverse": reverse, "time_major": time_major, "return_carry": True}
    options |= {"seq_lengths": lengths, "mutable": ["batch_stats"]}

    @jax.jit
    def both(x, mask):
        inputs = jaxnorm.linen.MaskedInputs(x, mask)
        apply = functools.partial(build().apply, variables, **options)
        return apply(inputs), apply(x, initial_carry=start(lengths))

    x, mask = (np.swapaxes(v, 0, 1) if time_major else v for v in (x, mask))
    plain = jax.device_get(both(x, mask)[1])
    ((carry, y), updates), _ = jax.device_get(
        both(np.where(mask, x, np.float32(77)), mask)
    )
    (expected_carry, expected), stats = plain
    chex.assert_trees_all_close(updates, stats, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y * mask, expected * mask, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(carry[:2], expected_carry[:2], rtol=1e-5, atol=1e-6)


def test_weights_of_examples_in_a_step(x, variables):
    """An example of weight 2 is there twice, one of weight 0 not at all."""
    cell = build().cell
    within = {kind: value["cell"] for kind, value in variables.items()}
    step = jax.jit(functools.partial(cell.apply, mutable=["batch_stats"]))
    weights = jax.device_put(np.float32([[2], [0], [1], [1], [1], [1]]))
    carry, now = start(jnp.full(BATCH, TIME)), x[:, 0]
    (_, y), updates = step(within, carry, now, mask=weights)
    index = np.array([0, 0, 2, 3, 4, 5])
    (_, expected), stats = step(within, carry, now[index])
    np.testing.assert_allclose(y[2:], expected[2:], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(updates, stats, rtol=1e-5, atol=1e-6)


ONES = jnp.ones((BATCH, INPUTS))
BAD_MASKS = {
    "of features": (ONES, ONES, ("1 feature", "(6, 3)")),
    "without features": (ONES, ONES[:, 0], ("mask", "(6,)")),
    "two": (jaxnorm.linen.MaskedInputs(ONES, ONES[:, :1]), ONES[:, :1], ("None",)),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_mask_that_does_not_fit(name, variables):
    inputs, mask, says = BAD_MASKS[name]
    within = {kind: value["cell"] for kind, value in variables.items()}
    carry = start(jnp.full(BATCH, TIME))
    with refused(*says):
        build(train=False).cell.apply(within, carry, inputs, mask=mask)


def test_sequences_that_ended_are_as_if_they_were_not_there(x, variables):
    """The third step sees what a batch of the sequences that reach it would."""
    lengths = np.asarray([4, 4, 4, 2, 2, 2])
    _, _, stats = run(variables, x, lengths)
    _, _, whole = run(variables, x)
    _, _, alone = run(variables, np.concatenate([np.asarray(x)[:3]] * 2))
    for expected, steps in (whole, slice(0, 2)), (alone, slice(2, 4)):
        own = [s["cell"]["norm_x"] for s in (stats, expected)]
        own = jax.tree.map(lambda leaf, steps=steps: leaf[steps], own)
        chex.assert_trees_all_close(*own, rtol=1e-5, atol=1e-6)


def test_steps_beyond_the_last_use_its_statistics(rng, variables):
    x = np.float32(rng.normal(size=(BATCH, STEPS + 2, INPUTS)))
    lengths = np.full(BATCH, STEPS + 2)
    y, _, stats = run(variables, x, lengths)
    chex.assert_trees_all_equal_shapes(stats, variables["batch_stats"])
    chex.assert_tree_all_finite((y, stats))
    # of which the steps beyond do not count
    x_then = np.where(np.arange(STEPS + 2)[:, None] < STEPS, x, 0)
    _, _, shorter = run(variables, x_then, np.full(BATCH, STEPS))
    mean = [s["cell"]["norm_x"]["mean"] for s in (stats, shorter)]
    np.testing.assert_allclose(mean[0][:-1], mean[1][:-1], rtol=1e-5, atol=1e-6)
    kernel = np.asarray(variables["params"]["cell"]["input"]["kernel"])
    expected = np.asarray(mean[1][-1])
    for step in (STEPS, STEPS + 1):
        expected = 0.5 * expected + 0.5 * np.mean(x[:, step] @ kernel, 0)
    np.testing.assert_allclose(mean[0][-1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.full  # in test_linen_family.py it is under vmap and scan
def test_vmap_over_models_equals_a_loop(x, variables):
    other = jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(1.2), variables)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), variables, other)
    actual = jax.device_get(jax.jit(jax.vmap(lambda v: traced_run(v, x)))(both))
    for i, model in enumerate((variables, other)):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], actual)
        chex.assert_trees_all_close(own, run(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "param_dtype"),
    matrix(
        [("bfloat16", "float32"), ("float16", "float32"), ("float32", "bfloat16")],
        often=[("bfloat16", "float32")],
    ),
)
def test_what_is_carried_keeps_its_dtype(dtype, param_dtype, x, variables):
    rnn = build(
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        # newer versions of JAX have no orthogonal matrices in half precision
        recurrent_kernel_init=nn.initializers.lecun_normal(),
    )
    (carry, y), updates = jax.jit(
        functools.partial(rnn.apply, return_carry=True, mutable=["batch_stats"])
    )(variables, x)
    expected, wide, stats = run(variables, x)
    assert y.dtype == dtype
    assert carry.c.dtype == carry.h.dtype == param_dtype
    chex.assert_trees_all_equal_dtypes(updates["batch_stats"], stats)
    tolerance = 10 * max(float(jnp.finfo(d).eps) for d in (dtype, param_dtype))
    assert oracles.error(y, expected) <= tolerance
    assert oracles.error(carry.c, wide.c) <= tolerance


def test_gradients_are_those_of_the_values(x, variables, rng, x64):
    """Through time and all three norms, in float64, along a random direction."""
    arguments = jax.tree.map(oracles.wide, (variables["params"], x))
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)
    rnn = build(param_dtype=jnp.float64)

    def loss(move):
        params, inputs = jax.tree.map(lambda a, d: a + move * d, arguments, direction)
        y, _ = rnn.apply(
            {**variables, "params": params}, inputs, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(y + jnp.cumsum(y, 0)))

    slope = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    values, slopes = jax.device_get(slope(np.asarray([-1e-5, 0.0, 1e-5])))
    np.testing.assert_allclose((values[2] - values[0]) / 2e-5, slopes[1], rtol=1e-6)
