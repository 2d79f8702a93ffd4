"""What batch norm costs: bytes saved for the backward pass, and collectives."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.counting import count_all_reduces
from support.drawing import draw, place
from support.tiers import matrix

import jaxnorm

FEATURES = 16
SHAPE = (16, 8, 8, FEATURES)


def training_norm(x, stats, scale, bias, **options):
    options = {"use_running_average": False, "dtype": x.dtype, **options}
    return jaxnorm.batch_norm(x, stats, scale, bias, **options)


def arguments(dtype=jnp.float32):
    x = draw(np.random.default_rng(0), SHAPE, dtype)
    stats = jaxnorm.init_batch_stats(FEATURES)
    return x, stats, place(np.ones(FEATURES)), place(np.zeros(FEATURES))


@pytest.mark.parametrize("mask", [None, "examples"])
@pytest.mark.parametrize(("dtype", "bar"), [(jnp.float32, 4), (jnp.bfloat16, 2)])
def test_saved_for_the_backward_pass_are_x_and_vectors(dtype, bar, mask):
    x, stats, scale, bias = arguments(dtype)
    if mask is not None:
        mask = jax.device_put(np.arange(SHAPE[0]).reshape(-1, 1, 1, 1) < 10)

    def norm(x, scale, bias):
        return training_norm(x, stats, scale, bias, mask=mask)[0]

    def backward(*arguments):
        return jax.vjp(norm, *arguments)[1]

    def nbytes(leaves):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    saved = jax.tree.leaves(jax.eval_shape(backward, x, scale, bias))
    vectors = nbytes(leaf for leaf in saved if leaf.size != x.size)
    assert [leaf.dtype for leaf in saved if leaf.size == x.size] == [dtype]
    assert (nbytes(saved) - vectors) / x.size == bar
    assert vectors <= 8 * 4 * FEATURES


def test_nothing_is_computed_of_what_is_known_while_tracing():
    """Neither of the count without a mask nor of the momentum, as of a plain norm."""

    def plain(x, stats, scale, bias):
        mean = jnp.mean(x, (0, 1, 2))
        var = jnp.mean(x * x, (0, 1, 2)) - mean * mean
        y = (x - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias
        pairs = zip(stats, (mean, var), strict=True)
        return y, [0.99 * old + 0.01 * new for old, new in pairs]

    def operations(norm):
        def loss(x, stats, scale, bias):
            y, new = norm(x, stats, scale, bias)
            return jnp.sum(y * y), new

        with jax.numpy_rank_promotion("allow"):
            step = jax.grad(loss, (0, 2, 3), has_aux=True)
            text = jax.jit(step).lower(*arguments()).as_text()
            return len(re.findall(r"= \"?(?:stablehlo|func)\.|= call ", text))

    assert operations(training_norm) <= 1.6 * operations(plain)


def test_what_stands_behind_a_barrier_is_x_alone():
    """A cotangent there could not be fused with what computes it."""
    args = arguments(jnp.bfloat16)
    step = gradient(dtype=jnp.float32)  # the dtype of cotangents, and not of x
    text = jax.jit(step).lower(*args).as_text()
    barriers = re.findall(r"stablehlo.optimization_barrier .* : (.*)", text)
    assert barriers == ["tensor<16x8x8x16xbf16>"]


@pytest.mark.parametrize("norm", [jaxnorm.instance_norm, jaxnorm.group_norm])
def test_sums_over_examples_are_of_each_example_s_sums(norm):
    """XLA for GPUs would make one sum of the two, with an array in between."""
    x, _, scale, bias = arguments(jnp.bfloat16)

    def loss(x, scale, bias):
        options = {"num_groups": 4} if norm is jaxnorm.group_norm else {}
        return jnp.sum(jnp.sin(norm(x, scale, bias, dtype=jnp.float32, **options)))

    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, scale, bias).as_text()
    barriers = re.findall(r"stablehlo.optimization_barrier .* : (.*)", text)
    sums = ["tensor<16x1x1x16xf32>"] * 2
    assert sorted(barriers) == sorted(["tensor<16x8x8x16xbf16>", *sums])


def collectives(function, *args):
    return count_all_reduces(jax.jit(function).lower(*args).compile())


def loss(x, stats, scale, bias, **options):
    y, new_stats = training_norm(x, stats, scale, bias, **options)
    return jnp.sum(jnp.sin(y)), new_stats


def gradient(**options):
    return jax.grad(functools.partial(loss, **options), argnums=(0, 2, 3), has_aux=True)


# Where types do not say that the statistics are the same on all devices, averaging them
# is one more, for the whole step.
@pytest.mark.parametrize(
    ("check_vma", "mask"),
    matrix(
        itertools.product((True, False), (True, False)),
        often=[(True, True), (False, False)],
    ),
)
def test_one_collective_forward_and_one_backward_in_shard_map(check_vma, mask):
    agreement = 0 if check_vma else 1
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    shared = P() if check_vma else P("data")

    def forward(*args):
        return training_norm(
            *args, axis_name="data", mask=args[0] > 0 if mask else None
        )

    def both(*args):
        options = {"axis_name": "data", "mask": args[0] > 0 if mask else None}
        return gradient(**options)(*args)

    args = arguments()
    specs = {"mesh": mesh, "in_specs": (P("data"), P(), P(), P())}
    specs["check_vma"] = check_vma
    forward = jax.shard_map(forward, out_specs=(P("data"), P()), **specs)
    both = jax.shard_map(both, out_specs=((P("data"), shared, shared), P()), **specs)
    assert collectives(forward, *args) == 1 + agreement
    assert collectives(both, *args) == 2 + agreement


def test_one_agreement_for_all_layers():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    x, stats, scale, bias = arguments()

    def layers(x, all_stats):
        new = []
        for stats in all_stats:
            options = {"axis_name": "data"}
            x, updated = training_norm(jnp.sin(x), stats, scale, bias, **options)
            new.append(updated)
        return x, new

    mapped = jax.shard_map(
        layers,
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=(P("data"), P()),
        check_vma=False,
    )
    assert collectives(mapped, x, [stats] * 4) == 4 + 1


def test_one_collective_forward_and_one_backward_in_pmap():
    x, *rest = arguments()
    args = (
        np.asarray(x).reshape(8, -1, *SHAPE[1:]),
        *jax.tree.map(lambda a: np.stack([a] * 8), rest),
    )

    def mapped(function):
        return jax.pmap(function, axis_name="data", devices=jax.devices("cpu"))

    def count(function):
        return count_all_reduces(mapped(function).lower(*args).compile())

    assert count(functools.partial(training_norm, axis_name="data")) == 2
    assert count(gradient(axis_name="data")) == 3


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_one_collective_forward_and_one_backward_under_jit(axis_type):
    mesh = jax.make_mesh((8,), ("data",), (axis_type,))
    x, stats, scale, bias = arguments()
    x = jax.device_put(x, NamedSharding(mesh, P("data")))
    stats, scale, bias = jax.device_put((stats, scale, bias), NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        assert collectives(training_norm, x, stats, scale, bias) == 1
        assert collectives(gradient(), x, stats, scale, bias) == 2


def test_remat_with_named_moments_repeats_no_reduction():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    args = arguments()

    def count(policy):
        block = jax.checkpoint(
            lambda *args: training_norm(*args, axis_name="data")[0], policy=policy
        )

        def step(x, stats, scale, bias):
            def loss(x, scale, bias):
                return jnp.sum(jnp.sin(block(x, stats, scale, bias)))

            return jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias)

        mapped = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P("data"), P(), P(), P()),
            out_specs=(P("data"), P(), P()),
        )
        # StableHLO: the CPU's compiler removes the repetition by itself
        return count_all_reduces(jax.jit(mapped).lower(*args))

    named = jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
    assert count(named) == 2
    assert count(jax.checkpoint_policies.nothing_saveable) == 3
