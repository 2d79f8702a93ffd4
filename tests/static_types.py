"""Code of users that mypy checks: types of results, and arguments that do not exist.

It is checked, not run. Each `type: ignore` has to be needed.
"""

from typing import assert_type

import equinox as eqx
import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx

x = jnp.ones((2, 3))
rngs = nnx.Rngs(0)


def functions(stats: jaxnorm.BatchStats, counted: jaxnorm.CountedBatchStats) -> None:
    assert_type(jaxnorm.layer_norm(x), Array)
    y, new = jaxnorm.batch_norm(x, stats, use_running_average=False)
    assert_type(y, Array)
    assert_type(new, jaxnorm.BatchStats)
    schedule = jaxnorm.warmup_momentum()
    _, new_counted = jaxnorm.batch_norm(
        x, counted, use_running_average=False, momentum=schedule
    )
    assert_type(new_counted, jaxnorm.CountedBatchStats)
    jaxnorm.batch_norm(x, stats)  # type: ignore[call-arg]
    jaxnorm.layer_norm(x, epsilom=1e-3)  # type: ignore[call-arg]


def linen_modules() -> None:
    assert_type(jaxnorm.linen.BatchNorm(use_running_average=True)(x), Array)
    assert_type(jaxnorm.linen.SegmentRMSNorm()(x, jnp.zeros(2, int), 1), Array)
    _, moments = jaxnorm.linen.CausalGroupNorm()(x)
    assert_type(moments, jaxnorm.RunningMoments)
    jaxnorm.linen.LayerNorm()(x, maks=x)  # type: ignore[call-arg]
    jaxnorm.linen.LayerNorm(epsilom=1e-3)  # type: ignore[call-arg]


def nnx_modules() -> None:
    norm = jaxnorm.nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
    assert_type(norm, jaxnorm.nnx.BatchNorm)
    assert_type(norm(x, use_running_average=True), Array)
    norm.mean[...] += norm.scale[...]
    print(jaxnorm.nnx.DynamicErf(3, rngs=rngs).shift[...])
    print(norm.maen)  # type: ignore[attr-defined]
    _, undo = jaxnorm.nnx.ReversibleInstanceNorm(3, rngs=rngs)(x)
    assert_type(undo, jaxnorm.Denormalizer)
    norm(x, maks=x)  # type: ignore[call-arg]
    jaxnorm.nnx.LayerNorm(3, epsilom=1e-3, rngs=rngs)  # type: ignore[call-arg]


def equinox_modules() -> None:
    assert_type(jaxnorm.equinox.GroupNorm(3, num_groups=3)(x), Array)
    assert_type(jaxnorm.equinox.GatedRMSNorm(3)(x, gate=x), Array)
    assert_type(jaxnorm.equinox.UnitNorm()(x), Array)
    module: eqx.Module = jaxnorm.equinox.LayerNorm(3, key=jax.random.key(0))
    norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(3)
    assert_type(norm, jaxnorm.equinox.BatchNorm)
    assert_type(norm(x, state), tuple[Array, eqx.nn.State])
    jaxnorm.equinox.LayerNorm()  # type: ignore[call-arg]
    del module
