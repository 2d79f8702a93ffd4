"""Haiku models and their twins in Flax, the one's params and state in the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import place
from support.peers_on_jax import as_peers_run  # noqa: F401

import jaxnorm.linen
from jaxnorm import tools

hk = pytest.importorskip("haiku")
pytestmark = pytest.mark.peers


def haiku_net(x, train):
    x = hk.Conv2D(6, 3, name="conv")(x)
    x = hk.BatchNorm(True, True, decay_rate=0.9, name="bn")(x, train)
    x = jax.nn.relu(x).mean((1, 2))
    return hk.BatchNorm(False, True, decay_rate=0.9, name="last")(x, train)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        options = {
            "use_running_average": not train,
            "momentum": tools.momentum_from_haiku(0.9),
        }
        x = nn.Conv(6, (3, 3), name="conv")(x)
        x = jaxnorm.linen.BatchNorm(name="bn", **options)(x)
        x = nn.relu(x).mean((1, 2))
        return jaxnorm.linen.BatchNorm(use_scale=False, name="last", **options)(x)


def test_there_and_back(rng):
    theirs, ours = hk.without_apply_rng(hk.transform_with_state(haiku_net)), Net()
    x = place(rng.normal(1, 2, (4, 6, 5, 3)))
    params, state = theirs.init(jax.random.key(0), x, True)
    params = jax.tree.map(lambda a: a + jnp.float32(rng.normal()), params)
    for _ in range(2):
        _, state = theirs.apply(params, state, x * 1.5 - 1, True)

    norms = tools.norms_from_haiku(params, state, counted=True)
    conv = {"kernel": params["conv"]["w"], "bias": params["conv"]["b"]}
    variables = ours.init(jax.random.key(0), x, train=True)
    for new in (norms, {"params": {"conv": conv}}):
        variables = tools.insert_variables(variables, new)
    mean = state["bn/~/mean_ema"]["average"]
    np.testing.assert_array_equal(
        variables["batch_stats"]["bn"]["mean"], mean.reshape(-1)
    )

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    def same_inference():
        expected, _ = theirs.apply(params, state, x, False)
        close(ours.apply(variables, x, train=False), expected)

    same_inference()
    for _ in range(2):
        y, updates = ours.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {**variables, **updates}
        expected, state = theirs.apply(params, state, x, True)
        close(y, expected)
    same_inference()

    shapes = {"bn": (1, 1, 1, -1), "last": (1, -1)}
    own, back = tools.norms_to_haiku(variables, shape=shapes, decay_rate=0.9)
    assert jax.tree.structure(dict(state)) == jax.tree.structure(back)
    jax.tree.map(close, back, dict(state))
    for name in ("bn", "last"):
        jax.tree.map(np.testing.assert_array_equal, own[name], dict(params[name]))
    expected, after = theirs.apply(params, state, x, True)
    y, after_back = theirs.apply(params, back, x, True)
    close(y, expected)
    jax.tree.map(close, dict(after_back), dict(after))
