"""What is kept, and made again, under `jaxnorm.checkpoint_policy`."""

import collections
import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.counting import count_primitives
from support.drawing import draw
from support.family import FEATURES, KINDS, SHAPE, TABLE, cast, close, draw_arguments
from support.tiers import matrix

import jaxnorm

WEIGHTS = {"weight_norm", "standardize_weight", "spectral_norm"}
NORMS = [name for name in TABLE if name not in WEIGHTS]
WIDTH = 2 * FEATURES  # of what the matrix products around a normalizer take and give


def kept_features(function, *args):
    """How many features of each example and place are kept, of each dtype.

    Moments, which are in float32, are not a feature where they are one number.
    """
    backward = jax.eval_shape(lambda *args: jax.vjp(function, *args)[1], *args)
    features = collections.Counter()
    for leaf in jax.tree.leaves(backward):
        moment = leaf.dtype == jnp.float32 and leaf.shape[-1:] == (1,)
        if leaf.shape[:-1] == SHAPE[:-1] and not moment:
            features[leaf.dtype.name] += leaf.shape[-1]
    return features


# Often one of each kind, and those that normalize twice or multiply first.
OFTEN = {*KINDS, "adaptive_batch_norm", "gated_rms_norm"} - WEIGHTS


@pytest.mark.parametrize(
    ("name", "add_bias"),
    matrix(
        [*((name, False) for name in NORMS), ("batch_norm", True)],
        often=[*((name, False) for name in OFTEN), ("batch_norm", True)],
    ),
)
def test_a_layer_keeps_what_is_normalized_once(name, add_bias, rng):
    """Be that the result of a matrix product, or a sum of one, in its own dtype."""
    entry = TABLE[name]
    _, params, state = draw_arguments(entry)
    inputs = draw(rng, (*SHAPE[:-1], WIDTH))
    kernels = draw(rng, (WIDTH, FEATURES)), draw(rng, (FEATURES, WIDTH))
    inputs, kernels, params = cast((inputs, kernels, params), jnp.bfloat16)

    def layer(inputs, kernels, params):
        x = inputs @ kernels[0]
        if add_bias:
            x = x + 1
        y, _ = entry.call(x, params, state, None)
        return jnp.tanh(y) @ kernels[1]

    remat = jax.checkpoint(layer, policy=jaxnorm.checkpoint_policy)
    kept = kept_features(remat, inputs, kernels, params)
    assert kept == {"bfloat16": WIDTH + FEATURES}  # with the inputs of the layer


@functools.cache
def steps():
    """A step of three layers on eight devices, without the policy and with it."""

    def model(x, kernels, stats):
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            y, _ = jaxnorm.batch_norm(
                x, stats, use_running_average=False, axis_name="data"
            )
            x = jax.nn.relu(y)
        return x

    def step(model, x, kernels, stats):
        def loss(kernels):
            return jnp.sum(jnp.sin(model(x, kernels, stats)))

        return jax.grad(loss)(kernels)

    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    policies = [model, jax.checkpoint(model, policy=jaxnorm.checkpoint_policy)]
    return [
        jax.shard_map(
            functools.partial(step, model),
            mesh=mesh,
            in_specs=(P("data"), P(), P()),
            out_specs=P(),
        )
        for model in policies
    ]


@pytest.fixture
def arguments(rng):
    kernels = [draw(rng, (3, 3, 4, 4)) for _ in range(3)]
    return draw(rng, (8, 4, 4, 4)), kernels, jaxnorm.init_batch_stats(4)


def test_nothing_but_elementwise_operations_is_repeated(arguments):
    plain, remat = (
        {
            name: count_primitives(name, step, *arguments)
            for name in ("conv_general_dilated", "reduce_", "psum", "sqrt")
        }
        for step in steps()
    )
    assert remat.pop("sqrt") > plain.pop("sqrt")  # what is elementwise
    # Rounding says to XLA that what is kept is as it was computed; it reduces nothing.
    plain["reduce_"] -= count_primitives("reduce_precision", steps()[0], *arguments)
    remat["reduce_"] -= count_primitives("reduce_precision", steps()[1], *arguments)
    assert remat == plain
    assert plain["conv_general_dilated"] > 0 < plain["psum"]


def test_gradients_are_the_same(arguments):
    plain, remat = (jax.jit(step)(*arguments) for step in steps())
    close(remat, plain)
