"""Per-example normalizers under the transformations of JAX."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.counting import count_primitives
from support.drawing import draw, place
from support.own_moments import PLAIN
from support.tiers import diagonal, matrix

import jaxnorm

most_in_full = pytest.mark.parametrize("name", matrix(PLAIN, often=["layer", "rms"]))


@most_in_full
def test_vmap_over_models(name, rng, make_mask):
    case = PLAIN[name]
    draw_all = functools.partial(draw, rng)
    x, scale = draw_all((3, *case.shape)), draw_all((3, *case.scale))
    bias = case.bias and draw_all((3, *case.bias))
    mask = make_mask("bool", (3, *case.shape))

    def norm(x, scale, bias, mask):
        return case.ours(mask=mask)(x, scale, bias)

    y = jax.jit(jax.vmap(norm))(x, scale, bias, mask)
    y, x, scale, bias, mask = jax.device_get((y, x, scale, bias, mask))
    for i in range(3):
        expected = case.oracle(mask=mask[i])(x[i], scale[i], case.bias and bias[i])
        assert oracles.error(y[i], expected) <= 1e-5


@most_in_full
def test_vmap_over_examples_is_the_batch(name, rng):
    case = PLAIN[name]
    x, scale, bias = draw(rng, case.shape), draw(rng, case.scale), draw(rng, case.bias)
    norm = case.ours()
    one_by_one = jax.jit(jax.vmap(lambda x: norm(x[None], scale, bias)[0]))(x)
    expected = case.oracle()(x, scale, bias)
    assert oracles.error(one_by_one, expected) <= 1e-5


@pytest.mark.parametrize("name", matrix(["layer", "group"], often=["group"]))
def test_scan_over_layers(name, rng):
    case = PLAIN[name]
    x, scales = draw(rng, case.shape), draw(rng, (2, *case.scale), loc=1)
    norm = case.ours()

    def layer(x, scale):
        return jnp.sin(norm(x, scale)), None

    def scanned(x, scales):
        return jnp.sum(jax.lax.scan(layer, x, scales)[0] ** 2)

    def unrolled(x, scales):
        for scale in scales:
            x, _ = layer(x, scale)
        return jnp.sum(x**2)

    @jax.jit
    def both(x, scales):
        return [jax.value_and_grad(f, (0, 1))(x, scales) for f in (scanned, unrolled)]

    actual, expected = both(x, scales)
    chex.assert_trees_all_close(actual, expected, rtol=1e-3, atol=1e-4)


keep = jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
drop = jax.checkpoint_policies.nothing_saveable


@most_in_full
def test_remat_that_keeps_the_moments_repeats_no_reduction(name, rng):
    case = PLAIN[name]
    x, w = draw(rng, case.shape), place(2.0)
    mask = jax.device_put(np.ones(case.shape, bool))
    scale = draw(rng, case.scale, loc=1)
    for norm in case.ours(), case.ours(mask=mask):

        def block(w, norm=norm):
            return jnp.tanh(norm(jnp.sin(x * w), scale))

        dropped, kept = (jax.checkpoint(block, policy=p) for p in (drop, keep))
        gradients = [
            jax.grad(lambda w, f=f: jnp.sum(f(w) ** 2)) for f in (block, dropped, kept)
        ]
        sums = [count_primitives("reduce_sum", f, w) for f in gradients]
        assert sums[0] == sums[2] < sums[1]
    plain, kept = jax.jit(lambda w: [f(w) for f in gradients[::2]])(w)
    np.testing.assert_allclose(kept, plain, rtol=1e-4)


@most_in_full
def test_the_second_call_traces_nothing(name, rng):
    case = PLAIN[name]
    ours = case.ours()
    chex.clear_trace_counter()  # which knows a function by its place in the source

    @jax.jit
    @chex.assert_max_traces(n=1)
    def norm(*arguments):
        return ours(*arguments)

    for _ in range(2):
        norm(draw(rng, case.shape), draw(rng, case.scale), draw(rng, case.bias))


@pytest.mark.parametrize(
    ("name", "dtype", "mask"),
    matrix(
        itertools.product(PLAIN, (jnp.float32, jnp.bfloat16), (None, "examples")),
        often=[
            ("layer", jnp.bfloat16, None),
            ("layer", jnp.float32, "examples"),
            *diagonal(PLAIN, (jnp.float32, jnp.bfloat16), (None, "examples")),
        ],
    ),
)
def test_saved_for_the_backward_pass_are_x_and_vectors(name, dtype, mask, rng):
    shape, features = (16, 64, 32), 32
    case = PLAIN[name]
    mask = mask and jax.device_put(np.arange(16).reshape(-1, 1, 1) < 10)
    norm = case.ours(mask=mask, dtype=dtype)
    arguments = [jax.ShapeDtypeStruct(shape, dtype)]
    parameters = ["scale", "bias"] if case.bias else ["scale"]
    arguments += [jax.ShapeDtypeStruct((features,), jnp.float32) for _ in parameters]

    def backward(*arguments):
        return jax.vjp(norm, *arguments)[1]

    saved = jax.tree.leaves(jax.eval_shape(backward, *arguments))
    large = [leaf for leaf in saved if leaf.size == np.prod(shape)]
    assert [leaf.dtype for leaf in large] == [dtype]
    # mean and variance of each row (layer, rms), or of each group or feature
    statistics = {"layer": 16 * 64, "rms": 16 * 64, "group": 16 * 2}
    statistics["causal"] = 2 * 16 * 64
    statistics = statistics.get(name, 16 * features)
    vectors = sum(leaf.size for leaf in saved if leaf.size != np.prod(shape))
    assert 0 < vectors <= 4 * statistics + 3 * features + 16
