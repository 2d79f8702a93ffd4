"""The moments that batch normalizers collect on request."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.drawing import place
from support.nnx_modules import TRAINED, build, call, draw_variables, load, program
from support.tiers import matrix

from jaxnorm.nnx import BatchMoment, BatchNorm


@pytest.fixture
def batches(rng):
    """Of different sizes and means, the second with NaN under its mask."""
    x = rng.normal(1e3, 2, (2, 4, 6, 4))
    masks = np.ones(x[0].shape, bool), rng.uniform(size=x[0].shape) < 0.6
    x[1] = np.where(masks[1], x[1] + 5, np.nan)
    return list(zip(place(x), map(jax.device_put, masks), strict=True))


@pytest.mark.parametrize(
    "name", matrix(TRAINED, often=("BatchNorm", "GhostBatchNorm", "BatchInstanceNorm"))
)
def test_output_and_statistics_do_not_depend_on_it(name, batches):
    """They are of the same program."""

    def run(collect_moments, variables, x, mask):
        module = load(build(name), variables)
        module.set_attributes(collect_moments=collect_moments)
        y = call(name, module, x, mask)
        return y, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    arguments = draw_variables(name, batches[1][0]), *batches[1]
    programs = (
        program(functools.partial(run, collects), *arguments)
        for collects in (False, True)
    )
    assert len(set(programs)) == 1


@pytest.mark.parametrize(
    ("name", "train"),
    matrix(
        [*((name, True) for name in TRAINED), ("BatchNorm", False)],
        often=[
            ("BatchNorm", False),
            ("BatchRenorm", True),
            ("DomainBatchNorm", True),
            ("InstanceBatchNorm", True),
        ],
    ),
)
def test_the_moments_of_all_batches(name, train, batches):
    """To the float64 ones, though the means are 1000."""

    @jax.jit
    def run(batches):
        module = build(name, use_running_average=not train)
        module.set_attributes(collect_moments=True)
        for batch in batches:
            call(name, module, *batch)
        return [module.batch_moments[k][...] for k in ("count", "mean", "var")]

    moments = jax.device_get(run(batches))
    features = [
        np.concatenate([np.asarray(x, np.float64)[..., i][np.asarray(mask)[..., i]]
                        for x, mask in batches])
        for i in range(4)
    ]  # fmt: skip
    if name == "InstanceBatchNorm":
        features = features[1:]
    expected = [[f(own) for own in features] for f in (len, np.mean, np.var)]
    for value, expected_value in zip(moments, expected, strict=True):
        if name in ("RecurrentBatchNorm", "DomainBatchNorm"):
            np.testing.assert_array_equal(value[0], 0)
            np.testing.assert_array_equal(value[2], 0)
            value = value[1]
        # The rounding of a float32 mean at 1000 times the distance of the batches.
        np.testing.assert_allclose(value, expected_value, rtol=1e-4)


def test_from_a_view_through_jit_and_split(batches):
    x, _ = batches[0]
    model = nnx.Sequential(BatchNorm(4, rngs=nnx.Rngs(0)), jnp.sin)
    view = nnx.view(model, collect_moments=True, use_running_average=True)
    assert not jax.tree.leaves(nnx.state(model, BatchMoment))
    traces = []

    @nnx.jit
    def forward(model, x):
        traces.append(1)
        return model(x)

    for _ in range(2):
        forward(view, x)
    assert len(traces) == 1
    merged = nnx.merge(*nnx.split(view))
    assert merged.layers[0].collect_moments
    np.testing.assert_array_equal(merged.layers[0].batch_moments["count"][...], 48)
    # what was collected is dropped, and the model is as at the start
    merged.set_attributes(collect_moments=False, use_running_average=False)
    assert nnx.graphdef(merged) == nnx.graphdef(model)


def test_over_devices(batches):
    x, _ = batches[0]
    norm = BatchNorm(4, axis_name="i", collect_moments=True, rngs=nnx.Rngs(0))
    norm.eval()  # where y needs no other device, but the moments do
    graphdef, state = nnx.split(norm)

    def step(state, x):
        norm = nnx.merge(graphdef, state)
        norm(x)
        return nnx.to_pure_dict(nnx.state(norm, BatchMoment))["batch_moments"]

    step = jax.pmap(step, axis_name="i", in_axes=(None, 0))
    moments = jax.device_get(step(state, np.asarray(x).reshape(8, 3, 4)))
    count, mean = moments["count"][0], moments["mean"][0]
    np.testing.assert_array_equal(count, 24)
    np.testing.assert_allclose(mean, np.asarray(x).mean((0, 1)), rtol=1e-5)


def test_gradients_flow_through_them(batches):
    x = np.asarray(batches[0][0]) - np.float32(1e3)

    def var(x):
        norm = BatchNorm(4, collect_moments=True, rngs=nnx.Rngs(0))
        norm(x)
        return jnp.sum(norm.batch_moments["var"][...])

    deviation = x - x.mean((0, 1), keepdims=True)
    expected = 2 * deviation / x[..., 0].size
    np.testing.assert_allclose(jax.jit(jax.grad(var))(x), expected, atol=1e-6)
