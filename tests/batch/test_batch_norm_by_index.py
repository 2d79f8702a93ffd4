"""An index for each example: each set of statistics sees a batch of its own."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.counting import count_all_reduces
from support.drawing import draw, draw_stats, ones, place
from support.modes import AXIS, DEVICES, MODES, differentiate, mesh_of
from support.refusals import refused
from support.tiers import matrix

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx

NUMBER, FEATURES = 4, 3
INDEX = np.array([2, 0, 0, 2, 3, 0, 2])  # no example of 1, and one of 3


def apart(x, stats, affine, mask, weight, **options):
    """The definition, in NumPy: examples of one index are a batch.

    Gradients in x, scale and bias of the sum of weight * sin(y), y, and the statistics.
    """
    momentum, unbiased = options.pop("momentum"), options.pop("unbiased", False)
    x, stats, mask, weight = jax.device_get((x, stats, mask, weight))
    y, dx = np.zeros(x.shape), np.zeros(x.shape)
    new = [oracles.wide(leaf) for leaf in stats]
    daffine = np.zeros((2, FEATURES))
    for index in np.unique(INDEX):
        rows = np.flatnonzero(index == INDEX)
        mean, var, *count = (leaf[index] for leaf in stats)
        batch = x[rows], mean, var, *affine
        own = options | {"mask": None if mask is None else mask[rows]}
        y[rows], new[0][index], new[1][index] = oracles.batch_norm(
            *batch,
            momentum=momentum(*count) if callable(momentum) else momentum,
            unbiased=unbiased,
            **own,
        )
        dy = np.cos(y[rows]) * weight[rows]
        dx[rows], *rest = oracles.batch_norm_gradients(dy, *batch, **own)
        daffine += rest
        if count and (mask is None or np.any(own["mask"])):
            new[2][index] += 1
    return dx, *daffine, y, *new


def together(x, stats, scale, bias, mask, **options):
    index = jax.device_put(INDEX)
    return jaxnorm.recurrent_batch_norm(
        x, stats, index, scale, bias, mask=mask, **options
    )


def gradients(**options):
    def loss(x, scale, bias, stats, mask, weight):
        y, new = together(x, stats, scale, bias, mask, **options)
        return jnp.sum(jnp.sin(y) * weight), (y, new)

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))


def draw_sets(rng, counted=False):
    stats = draw_stats(rng, (NUMBER, FEATURES))
    if counted:
        count = place([0.0, 5.0, 2.0, 1.0])
        return jaxnorm.CountedBatchStats(*stats, count)
    return stats


OPTIONS = {
    "training": {},
    "inference": {"use_running_average": True},
    "unbiased, other axes": {"unbiased": True, "feature_axes": 1},
    "a schedule, in two passes": {
        "momentum": jaxnorm.warmup_momentum(0.9),
        "use_fast_variance": False,
    },
}


CASES = [
    case
    for case in itertools.product(OPTIONS, (None, "bool", "weights"))
    if case != ("unbiased, other axes", "weights")  # which is refused
]
OFTEN = [
    ("training", "weights"),
    ("inference", None),
    ("unbiased, other axes", "bool"),
    ("a schedule, in two passes", "bool"),
]


@pytest.mark.parametrize(("name", "kind"), matrix(CASES, OFTEN))
def test_each_index_is_a_batch(name, kind, rng, make_mask):
    options = {"use_running_average": False, "momentum": 0.5} | OPTIONS[name]
    shape = (len(INDEX), 4, FEATURES)
    x, mask = draw(rng, shape, loc=2), make_mask(kind, shape)
    weight = draw(rng, shape)
    if mask is not None:
        mask = np.array(mask)
        mask[4] = 0  # nothing of 3 counts
        x, mask = place(np.where(mask == 0, np.nan, x)), jax.device_put(mask)
    if "other axes" in name:
        x, weight, mask = jax.tree.map(
            lambda value: np.swapaxes(value, 1, 2), (x, weight, mask)
        )
    stats = draw_sets(rng, counted="a schedule" in name)
    affine = draw(rng, FEATURES, loc=1), draw(rng, FEATURES)

    actual = gradients(**options)(x, *affine, stats, mask, weight)
    options.pop("use_fast_variance", None)
    expected = apart(x, stats, affine, mask, weight, **options)
    for value, wanted in zip(jax.tree.leaves(actual), expected, strict=True):
        assert oracles.error(value, wanted) <= 2e-5


def test_large_means(rng):
    """The running means are near."""
    x = draw(rng, (len(INDEX), 50, FEATURES), loc=1e4)
    mean = place(np.full((NUMBER, FEATURES), 1e4 + 1))
    stats = jaxnorm.BatchStats(mean, ones(mean.shape))
    run = functools.partial(together, use_running_average=False)
    y, _ = jax.jit(run)(x, stats, None, None, None)
    for index in np.unique(INDEX):
        rows = oracles.wide(x)[index == INDEX]
        expected = (rows - rows.mean((0, 1))) / np.sqrt(rows.var((0, 1)) + 1e-5)
        assert oracles.error(y[index == INDEX], expected) <= 1e-5


def over_devices(axis_name):
    """The indices are where others have their mask: divided like x."""

    def forward(x, index, stats, scale, bias):
        options = {"use_running_average": False, "axis_name": axis_name}
        options["momentum"] = 0.5
        return jaxnorm.recurrent_batch_norm(x, stats, index, scale, bias, **options)

    return forward


@functools.cache
def alone():
    """On one device, for all modes."""
    return jax.jit(differentiate(over_devices(None)))


def draw_divided(rng):
    x = draw(rng, (2 * DEVICES, 2, FEATURES), loc=2)
    index = jax.device_put(rng.integers(0, 3, 2 * DEVICES))
    affine = draw(rng, FEATURES, loc=1), draw(rng, FEATURES)
    return x, index, draw(rng, x.shape), draw_sets(rng), *affine


@pytest.mark.parametrize("mode", matrix(MODES, often=("pmap", "jit, Explicit")))
def test_over_devices(mode, rng):
    problem = draw_divided(rng)
    axis = None if mode.startswith("jit") else AXIS
    actual = MODES[mode](over_devices(axis))(*problem)
    pairs = zip(*map(jax.tree.leaves, (actual, alone()(*problem))), strict=True)
    for value, expected in pairs:
        assert oracles.error(value, expected) <= 2e-5


def test_one_collective_forward(rng):
    x, index, _, *shared = draw_divided(rng)
    mapped = jax.shard_map(
        over_devices(AXIS),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(P(AXIS), P(AXIS), P(), P(), P()),
        out_specs=(P(AXIS), P()),
    )
    program = jax.jit(mapped).lower(x, index, *shared).compile()
    assert count_all_reduces(program) == 1


def test_labels_of_domains(rng):
    """In each framework; and the exact moments that are collected."""
    x, index = draw(rng, (len(INDEX), FEATURES), loc=2), jax.device_put(INDEX)
    options = {"num_domains": NUMBER, "momentum": 0.0}
    linen = jaxnorm.linen.DomainBatchNorm(use_running_average=False, **options)
    variables = jax.jit(linen.init)(jax.random.key(0), x, 0)
    changed = ["batch_stats", "batch_moments"]
    y, updates = jax.jit(functools.partial(linen.apply, mutable=changed))(
        variables, x, index
    )
    nnx_norm = jaxnorm.nnx.DomainBatchNorm(FEATURES, rngs=nnx.Rngs(0), **options)
    nnx_y = nnx.jit(lambda norm, x, index: norm(x, index))(nnx_norm, x, index)
    eqx_norm, state = eqx.nn.make_with_state(jaxnorm.equinox.DomainBatchNorm)(
        FEATURES, **options
    )
    eqx_y, state = eqx.filter_jit(eqx_norm)(x, index, state)
    collected = updates["batch_moments"]["batch_moments"]
    np.testing.assert_array_equal(collected["count"][:, 0], [3, 0, 3, 1])
    for i in np.unique(INDEX):
        rows = oracles.wide(x)[i == INDEX]
        expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
        for value in (y, nnx_y, eqx_y):
            assert oracles.error(value[i == INDEX], expected) <= 1e-5
        means = updates["batch_stats"]["mean"], nnx_norm.mean[...], collected["mean"]
        for mean in (*means, state.get(eqx_norm.stats).mean):
            assert oracles.error(mean[i], rows.mean(0)) <= 1e-5
    stored = updates["batch_stats"]["mean"][1]
    np.testing.assert_array_equal(stored, 0)  # as it was


BAD = {
    "floating": (np.zeros(7, np.float32), ("step", "float32")),
    "of too many": (np.zeros(8, np.int32), ("step", "(8,)")),
    "negative": (np.full(7, -1), ("step", "-1")),
    "of features": (np.zeros((7, 3), np.int32), ("step", "(7, 3)")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_indices(name, as_users_run_it):
    index, says = BAD[name]
    stats = jaxnorm.init_recurrent_stats(NUMBER, FEATURES)
    x = np.zeros((7, FEATURES), np.float32)
    with refused(*says):
        jaxnorm.recurrent_batch_norm(x, stats, index, use_running_average=False)


def test_domains_beyond_the_last(as_users_run_it):
    norm = jaxnorm.linen.DomainBatchNorm(num_domains=2, use_running_average=True)
    x = np.zeros((7, FEATURES), np.float32)
    with refused("domain", "3"):
        norm.init(jax.random.key(0), x, jax.device_put(INDEX))
