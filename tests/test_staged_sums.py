"""Sums that programs for GPUs take in two stages, beside the oracle and as lowered."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import PartitionSpec as P
from support.drawing import draw
from support.modes import mesh_of
from support.tiers import matrix

import jaxnorm

SHAPE = (8, 3, 18, 7)
NORMS = {
    "group": functools.partial(jaxnorm.group_norm, num_groups=7),
    "instance": jaxnorm.instance_norm,
    "batch": lambda x, scale, bias: jaxnorm.batch_norm(
        x, jaxnorm.init_batch_stats(7), scale, bias, use_running_average=False
    )[0],
}
ORACLES = {
    "group": functools.partial(oracles.group_norm, num_groups=7),
    "instance": oracles.instance_norm,
    "batch": lambda x, scale, bias: oracles.batch_norm(
        x, np.zeros(7), np.ones(7), scale, bias, use_running_average=False
    )[0],
}


def gradients(norm):
    def loss(x, scale, bias, weight):
        y = norm(x, scale, bias)
        return jnp.sum(y * weight), y

    return jax.grad(loss, (0, 1, 2), has_aux=True)


@pytest.mark.parametrize(
    ("name", "mode"),
    matrix(
        itertools.product(NORMS, ("jit", "vmap", "check_vma", "unchecked")),
        often=[("group", "check_vma"), ("instance", "vmap"), ("batch", "jit")],
    ),
)
def test_oracle(name, mode, rng, as_on_gpus):
    x, weight = draw(rng, SHAPE, loc=0.5, std=2), draw(rng, SHAPE)
    scale, bias = draw(rng, 7, loc=1), draw(rng, 7)
    step = gradients(NORMS[name])
    if mode == "vmap":
        step = jax.vmap(step, (0, None, None, 0))
        x, weight = x[None], weight[None]
    elif mode != "jit":
        sharded, whole = P(None, None, None, None), P()
        step = jax.shard_map(
            step,
            mesh=mesh_of(jax.sharding.AxisType.Auto),
            in_specs=(sharded, whole, whole, sharded),
            out_specs=((sharded, whole, whole), sharded),
            check_vma=mode == "check_vma",
        )
    actual, y = jax.device_get(jax.jit(step)(x, scale, bias, weight))
    if mode == "vmap":
        x, weight, y = x[0], weight[0], y[0]
        actual = [gradient[0] for gradient in actual]
    reference = ORACLES[name]
    assert oracles.error(y, reference(x, scale, bias)) <= 1e-5
    values = [oracles.wide(value) for value in (x, scale, bias)]
    for i, gradient in enumerate(actual):
        direction = rng.normal(size=gradient.shape)

        def moved(step, i=i, direction=direction):
            return [v + step * direction if j == i else v for j, v in enumerate(values)]

        change = reference(*moved(1e-4)) - reference(*moved(-1e-4))
        expected = np.sum(change * oracles.wide(weight)) / 2e-4
        size = np.linalg.norm(oracles.wide(gradient)) + np.linalg.norm(direction)
        assert abs(np.sum(gradient * direction) - expected) <= 1e-5 * size


def shapes_of_sums(platform, function, x):
    lowered = jax.jit(function).trace(x).lower(lowering_platforms=(platform,))
    return re.findall(
        r"stablehlo.reduce\(.*: \(tensor<([\dx]+)xf32>", lowered.as_text()
    )


@pytest.mark.parametrize(
    ("shape", "staged"),
    [
        ((16, 32, 32, 64), True),
        ((16, 128, 32, 64), True),  # as long as XLA leaves it
        ((16, 256, 32, 64), False),  # which XLA cuts by itself
        ((128, 32, 32, 64), False),  # enough of them
        ((4, 32, 32, 64), False),  # which stays in the cache
        ((256, 1024, 64), False),  # nothing to be summed first
    ],
)
def test_which_sums_have_two_stages(shape, staged):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    second = f"{shape[0]}x{shape[1]}x1x{shape[-1]}"

    def sums_of_sums(platform):
        return shapes_of_sums(platform, jaxnorm.instance_norm, x).count(second)

    assert sums_of_sums("cuda") == (2 if staged else 0)  # of x and of its square
    for platform in ("cpu", "tpu"):
        assert sums_of_sums(platform) == 0


@pytest.mark.parametrize(
    ("examples", "forward", "backward"),
    [(64, True, True), (128, False, True), (256, False, False)],
)
def test_under_a_mask_more_sums_have_two_stages(examples, forward, backward):
    """Of x less its shift, and of its square; then of two products with a cotangent."""
    shape = (examples, 32, 32, 128)  # four blocks for each example
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    mask = np.ones((examples, 32, 32, 1), bool)

    def norm(x):
        scale = bias = jnp.ones(128)
        return jaxnorm.instance_norm(x, scale, bias, mask=mask)

    def step(x):
        y, pull = jax.vjp(norm, x)
        return y, pull(y)

    second = f"{examples}x32x1x128"
    sums = [shapes_of_sums("cuda", f, x).count(second) for f in (norm, step)]
    # With the sum that gives the shift.
    assert sums == [3 * forward, 3 * forward + 2 * backward]
    assert shapes_of_sums("tpu", norm, x).count(second) == 0
