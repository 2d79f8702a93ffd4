"""`DomainBatchNorm`, and recipes for normalization that depends on something else.

Each recipe is a function of the public ones, with its test below.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from jax.experimental import checkify
from oracles import instance_norm, layer_norm, rms_norm
from support.drawing import draw, draw_stats
from support.refusals import refused
from support.tiers import matrix

import jaxnorm
import jaxnorm.linen
import jaxnorm.nnx

EXAMPLES, SPACE, FEATURES, DOMAINS = 6, 4, 3, 3
SHAPE = (EXAMPLES, SPACE, FEATURES)


def conditional_batch_norm(x, stats, scale, bias, **options):
    """FiLM: scale and bias of each example, of shape (examples, features)."""
    scale, bias = scale[:, None], bias[:, None]
    return jaxnorm.batch_norm(x, stats, scale, bias, **options)


def adaptive_instance_norm(content, style, epsilon=1e-5):
    """AdaIN: the content with the moments that the style has in each feature."""
    mean = jnp.mean(style, 1, keepdims=True)
    std = jnp.sqrt(jnp.var(style, 1, keepdims=True) + epsilon)
    return jaxnorm.instance_norm(content, std, mean, epsilon=epsilon)


def modulated_residual(x, block, shift, scale, gate):
    """Diffusion transformers: what a condition c says, of shape (examples, features).

    With a last layer of zeros that gives all three, each block starts as the identity.
    """
    shift, scale, gate = shift[:, None], scale[:, None], gate[:, None]
    return x + gate * block(jaxnorm.layer_norm(x, 1 + scale, shift))


def normalized_attention(query, key, value, query_scale, key_scale):
    """Query-key norm: logits that are bounded; (examples, time, heads, width)."""
    query = jaxnorm.rms_norm(query, query_scale)
    key = jaxnorm.rms_norm(key, key_scale)
    return jax.nn.dot_product_attention(query, key, value)


def split_batch_norm(x, stats, scale=None, bias=None, **options):
    """Clean examples, and as many adversarial ones after them, each with its own.

    stats are those of `init_recurrent_stats(2, features)`: clean, adversarial.
    """
    halves = []
    for index, half in enumerate(jnp.split(x, 2)):
        y, stats = jaxnorm.recurrent_batch_norm(
            half, stats, index, scale, bias, **options
        )
        halves.append(y)
    return jnp.concatenate(halves), stats


@pytest.fixture
def x(rng):
    return draw(rng, SHAPE, loc=0.5, std=2)


@pytest.mark.parametrize("inference", [False, True])
def test_conditional_batch_norm(inference, x, rng):
    stats = draw_stats(rng, FEATURES)
    scale, bias = (draw(rng, (EXAMPLES, FEATURES), loc=1) for _ in range(2))
    run = functools.partial(conditional_batch_norm, use_running_average=inference)
    y, new = jax.jit(run)(x, stats, scale, bias)
    plain, *moved = oracles.batch_norm(x, *stats, use_running_average=inference)
    expected = plain * np.asarray(scale)[:, None] + np.asarray(bias)[:, None]
    for actual, wanted in zip((y, *new), (expected, *moved), strict=True):
        assert oracles.error(actual, wanted) <= 1e-5


def test_adaptive_instance_norm(x, rng):
    """The result has the moments of the style; a style of itself changes nothing."""
    style = draw(rng, (EXAMPLES, 7, FEATURES), loc=3, std=0.5)
    adapt = jax.jit(adaptive_instance_norm)
    y = adapt(x, style)
    own = instance_norm(x, epsilon=1e-5)
    std = np.sqrt(np.var(style, 1, keepdims=True) + 1e-5)
    assert oracles.error(y, own * std + np.mean(style, 1, keepdims=True)) <= 1e-5
    np.testing.assert_allclose(y.mean(1), style.mean(1), rtol=1e-4)
    np.testing.assert_allclose(y.std(1), style.std(1), rtol=1e-3)
    np.testing.assert_allclose(adapt(x, x), x, rtol=1e-4, atol=1e-4)
    # gradients reach the style through both of its moments
    dstyle = jax.jit(jax.grad(lambda s: jnp.sum(jnp.sin(adaptive_instance_norm(x, s)))))
    assert (dstyle(style) != 0).all()


def test_modulated_residual(x, rng):
    condition = [draw(rng, (EXAMPLES, FEATURES)) for _ in range(3)]
    kernel = draw(rng, (FEATURES, FEATURES))
    run = jax.jit(lambda x, *c: modulated_residual(x, lambda h: h @ kernel, *c))
    shift, scale, gate = (np.asarray(c)[:, None] for c in condition)
    inner = layer_norm(x) * (1 + scale) + shift
    expected = oracles.wide(x) + gate * (inner @ oracles.wide(kernel))
    assert oracles.error(run(x, *condition), expected) <= 1e-5
    np.testing.assert_array_equal(run(x, *jnp.zeros((3, EXAMPLES, FEATURES))), x)


def test_normalized_attention(rng):
    """Against NumPy; and the size of queries and keys has no effect."""
    query, key, value = (draw(rng, (2, 5, 2, 4)) for _ in range(3))
    scales = [draw(rng, 4, loc=1) for _ in range(2)]
    attend = jax.jit(normalized_attention)
    y = attend(query, key, value, *scales)
    q, k = (rms_norm(v, s) for v, s in zip((query, key), scales, strict=True))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, oracles.wide(value))
    assert oracles.error(y, expected) <= 1e-5
    larger = attend(100 * query, 30 * key, value, *scales)
    np.testing.assert_allclose(larger, y, rtol=1e-4, atol=1e-5)


def test_split_batch_norm(x):
    """Each half is a batch of its own; inference is that of the clean one."""
    stats = jaxnorm.init_recurrent_stats(2, FEATURES)
    run = functools.partial(split_batch_norm, use_running_average=False, momentum=0.0)
    y, new = jax.jit(run)(x, stats)
    for index, half in enumerate(np.split(np.asarray(x), 2)):
        expected = oracles.batch_norm(half, *jax.tree.map(lambda s: s[0], stats))[0]
        assert oracles.error(np.split(y, 2)[index], expected) <= 1e-5
        np.testing.assert_allclose(new.mean[index], half.mean((0, 1)), rtol=1e-5)
    clean = jax.tree.map(lambda leaf: leaf[0], new)
    inferred, _ = jaxnorm.batch_norm(x, clean, use_running_average=True)
    assert oracles.error(inferred[:3], y[:3]) <= 1e-5


def build(**options):
    options = {"use_running_average": False, "momentum": 0.5} | options
    return jaxnorm.linen.DomainBatchNorm(num_domains=DOMAINS, **options)


@functools.cache
def initial():
    return jax.jit(build().init)(jax.random.key(0), jnp.ones(SHAPE), 0)


@pytest.fixture
def variables(rng):
    stats = [draw_stats(rng, FEATURES) for _ in range(DOMAINS)]
    stats = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stats)
    params = {"scale": draw(rng, FEATURES, loc=1), "bias": draw(rng, FEATURES)}
    drawn = {"params": params, "batch_stats": stats._asdict()}
    chex.assert_trees_all_equal_shapes_and_dtypes(drawn, initial())
    return drawn


@pytest.mark.parametrize(
    ("domain", "inference", "traced"),
    matrix(
        itertools.product(range(DOMAINS), (False, True), (False, True)),
        often=[(0, False, True), (1, True, True), (2, False, True)],
    ),
)
def test_only_the_chosen_domain(domain, inference, traced, x, variables):
    """It normalizes, and it alone moves; the others stay as they were to the bit."""
    norm = build(use_running_average=inference)
    apply = functools.partial(norm.apply, mutable=["batch_stats"])
    if traced:
        y, updates = jax.jit(apply)(variables, x, jax.device_put(domain))
    else:
        y, updates = apply(variables, x, domain)
    old, new = variables["batch_stats"], updates["batch_stats"]
    expected = oracles.batch_norm(
        x,
        old["mean"][domain],
        old["var"][domain],
        variables["params"]["scale"],
        variables["params"]["bias"],
        momentum=0.5,
        use_running_average=inference,
    )
    own = y, new["mean"][domain], new["var"][domain]
    for actual, wanted in zip(own, expected, strict=True):
        assert oracles.error(actual, wanted) <= 1e-5
    others = np.arange(DOMAINS) != domain
    for name in old:
        np.testing.assert_array_equal(new[name][others], old[name][others])


def test_one_program_serves_all_domains(x, variables):
    traces = []

    @jax.jit
    def apply(variables, x, domain):
        traces.append(domain)
        return build().apply(variables, x, domain, mutable=["batch_stats"])

    first = variables["batch_stats"]
    for domain in range(DOMAINS):
        _, updates = apply(variables, x, jax.device_put(domain))
        variables = {**variables, **updates}
    assert len(traces) == 1
    # each has seen the same batch once
    _, *moments = oracles.moments(x)
    for name, batch in zip(("mean", "var"), moments, strict=True):
        expected = (oracles.wide(first[name]) + batch) / 2
        assert oracles.error(variables["batch_stats"][name], expected) <= 1e-5


def test_updates_are_counted_for_each_domain(x):
    """With a plain average, each domain has the mean of what it has seen."""
    norm = build(momentum=lambda count: count / (count + 1))
    variables = jax.jit(norm.init)(jax.random.key(0), x, 0)
    apply = jax.jit(functools.partial(norm.apply, mutable=["batch_stats"]))
    for factor, domain in ((1, 0), (2, 2), (3, 0)):
        _, updates = apply(variables, factor * x, jax.device_put(domain))
        variables = {**variables, **updates}
    stats = variables["batch_stats"]
    np.testing.assert_array_equal(stats["count"], [2, 0, 1])
    mean = np.mean(np.asarray(x, np.float64), (0, 1))
    np.testing.assert_allclose(stats["mean"], [2 * mean, 0 * mean, 2 * mean], rtol=1e-5)


def nnx_norm():
    return jaxnorm.nnx.DomainBatchNorm(FEATURES, num_domains=DOMAINS, rngs=nnx.Rngs(0))


def call(api, x, domain):
    if api == "nnx":
        return nnx_norm()(x, domain)
    return build().apply(
        build().init(jax.random.key(0), x, 0), x, domain, mutable=["batch_stats"]
    )[0]


BAD_DOMAINS = {
    "no integer": (0.5, ("domain", "integer", "float32")),
    "no scalar": (np.array([0, 1]), ("domain", "scalar", "(2,)")),
    "beyond": (DOMAINS, ("domain", "[0, 3)", "3")),
    "negative": (-1, ("domain", "[0, 3)", "-1")),
    "an array beyond": (np.int32(7), ("domain", "[0, 3)", "7")),
}


@pytest.mark.parametrize("how", ["eager", "tracing"])
@pytest.mark.parametrize("api", ["linen", "nnx"])
@pytest.mark.parametrize("name", BAD_DOMAINS)
def test_bad_domains(name, api, how, x, as_users_run_it):
    domain, says = BAD_DOMAINS[name]
    with refused(*says):
        if how == "tracing":
            jax.eval_shape(lambda x: call(api, x, domain), x)
        else:
            call(api, x, domain)


@pytest.mark.parametrize("api", matrix(["linen", "nnx"], often=["linen"]))
def test_a_traced_domain_is_checked_by_checkify(api, x):
    """And, without it, the last is taken."""
    run = jax.jit(lambda x, domain: call(api, x, domain))
    checked = jax.jit(checkify.checkify(run, errors=checkify.index_checks))
    for domain in (-1, 0, DOMAINS - 1, DOMAINS, 100):
        error, y = checked(x, jax.device_put(domain))
        outside = domain not in range(DOMAINS)
        assert outside == ("out-of-bounds" in (error.get() or ""))
        np.testing.assert_array_equal(run(x, jax.device_put(domain)), y)


def test_a_traced_domain_out_of_range_is_the_last(x, variables):
    apply = jax.jit(functools.partial(build().apply, mutable=["batch_stats"]))
    expected = apply(variables, x, jax.device_put(DOMAINS - 1))
    for domain in (-1, DOMAINS):
        found = apply(variables, x, jax.device_put(domain))
        chex.assert_trees_all_equal(found, expected)


def test_no_domains(x):
    for make in (
        lambda: jaxnorm.linen.DomainBatchNorm(num_domains=0).init(
            jax.random.key(0), x, 0, True
        ),
        lambda: jaxnorm.nnx.DomainBatchNorm(3, num_domains=0, rngs=nnx.Rngs(0)),
    ):
        with refused("num_domains", "0"):
            make()
