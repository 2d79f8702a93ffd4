"""Training on one example, without space: the batch's mean erases it."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx

ERASING = {
    "BatchNorm": {},
    "GhostBatchNorm": {"virtual_batch_size": 1},
    "MeanOnlyBatchNorm": {},
    "AdaptiveBatchNorm": {},
    "BatchInstanceNorm": {},
    "InstanceBatchNorm": {"instance_features": 1},
    "RecurrentBatchNorm": {"max_steps": 2},
    "DomainBatchNorm": {"num_domains": 2},
}
KEEPING = ("BatchRenorm", "EvoNormB0", "SwitchableNorm", "RunningNorm")
INDEXED = ("RecurrentBatchNorm", "DomainBatchNorm")
apis = pytest.mark.parametrize("api", [jaxnorm.linen, jaxnorm.nnx, jaxnorm.equinox])


def trace(api, name, x, *, training=True, **options):
    """Calls a module that is initialized, without computing anything."""
    cls, index = getattr(api, name), ((0,) if name in INDEXED else ())

    def run(x):
        if api is jaxnorm.linen:
            module = cls(use_running_average=not training, **options)
            variables = module.init(jax.random.key(0), x, *index)
            return module.apply(variables, x, *index, mutable=["batch_stats"])
        if api is jaxnorm.nnx:
            options.update(use_running_average=not training, rngs=nnx.Rngs(0))
            return cls(x.shape[-1], **options)(x, *index)
        module, state = eqx.nn.make_with_state(cls)(x.shape[-1], **options)
        return module(x, *index, state, inference=not training)[0]

    return jax.eval_shape(run, x)


# Which layers erase it, they say once for all frameworks; the slow tier has all.
@pytest.mark.parametrize("name", ERASING)
@pytest.mark.parametrize(
    "api",
    [
        jaxnorm.nnx,
        pytest.param(jaxnorm.linen, marks=pytest.mark.slow),
        pytest.param(jaxnorm.equinox, marks=pytest.mark.slow),
    ],
)
def test_training_warns(api, name):
    with pytest.warns(UserWarning, match=r"at least two values.*\(1, 3\).*examples"):
        trace(api, name, jnp.ones((1, 3)), **ERASING[name])


@apis
def test_batch_norm_warns(api):
    test_training_warns(api, "BatchNorm")


@apis
def test_no_warning(api):
    """Of inference, initialization, space, and norms that are more than a mean."""
    one = jnp.ones((1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(api, "BatchNorm", one, training=False)
        trace(api, "BatchNorm", jnp.ones((1, 2, 3)))
        trace(api, "GhostBatchNorm", jnp.ones((2, 3)), virtual_batch_size=2)
        for name in KEEPING:
            trace(api, name, one)


def test_no_warning_if_several_devices_have_one_example_each():
    """With one example on each of them, there are several."""

    def apply(x):
        module, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(
            3, axis_name="batch"
        )
        return module(x, state)[0]

    jax.eval_shape(jax.vmap(apply, axis_name="batch"), jnp.ones((2, 1, 3)))
