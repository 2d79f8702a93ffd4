"""Keras models and their twins in Flax, the one's variables in the other."""

import inspect
import os

import jax
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import place
from support.peers_on_jax import as_peers_run  # noqa: F401

import jaxnorm.linen
from jaxnorm import tools

os.environ["KERAS_BACKEND"] = "jax"
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.peers

needs_renorm = pytest.mark.skipif(
    "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters,
    reason="this version of Keras has no batch renormalization",
)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for i, options in enumerate([{}, {"use_scale": False}]):
            x = nn.Conv(6, (3, 3), padding="SAME", name=f"conv{i}")(x)
            x = jaxnorm.linen.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-3,
                name=f"bn{i}",
                **options,
            )(x)
            x = nn.relu(x)
        return x


def keras_net():
    layers = keras.layers
    modules = [keras.Input((6, 5, 3))]
    for i, options in enumerate([{}, {"scale": False}]):
        modules += [
            layers.Conv2D(6, 3, padding="same", name=f"conv{i}"),
            layers.BatchNormalization(momentum=0.9, name=f"bn{i}", **options),
            layers.ReLU(),
        ]
    return keras.Sequential(modules, name="net")


def randomize(model, rng):
    for variable in model.variables:
        low, high = (0.3, 3) if "var" in variable.path else (-1, 1)
        variable.assign(rng.uniform(low, high, variable.shape))
    return model


def arrays_of(model):
    return {v.path: np.array(np.asarray(v)) for v in model.variables}


def paths_of(arrays):
    """Each normalizer's name, whatever Keras puts before it."""
    names = {path.rpartition("/")[0] for path in arrays if "moving_mean" in path}
    return {name: (name.split("/")[-1],) for name in names}


def test_there_and_back(rng):
    theirs, ours = randomize(keras_net(), rng), Net()
    arrays = arrays_of(theirs)
    paths = paths_of(arrays)
    assert len(paths) == 2
    x = place(rng.normal(2, 3, (4, 6, 5, 3)))
    convolutions = {
        layer.name: {
            "kernel": np.asarray(layer.kernel),
            "bias": np.asarray(layer.bias),
        }
        for layer in theirs.layers
        if "conv" in layer.name
    }
    variables = ours.init(jax.random.key(0), x, train=True)
    for new in (tools.norms_from_keras(arrays, paths), {"params": convolutions}):
        variables = tools.insert_variables(variables, new)
    for name, (bn,) in paths.items():
        stats = variables["batch_stats"][bn]
        np.testing.assert_array_equal(stats["mean"], arrays[f"{name}/moving_mean"])
        np.testing.assert_array_equal(stats["var"], arrays[f"{name}/moving_variance"])

    def close(y, expected):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    close(ours.apply(variables, x, train=False), theirs(x, training=False))
    y, updates = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    close(y, theirs(x, training=True))
    variables = {**variables, **updates}
    after = tools.norms_from_keras(arrays_of(theirs), paths)["batch_stats"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.tree.map(np.asarray, dict(variables["batch_stats"])),
        after,
    )

    fresh = keras_net()
    back = tools.norms_to_keras(variables, paths)
    for variable in fresh.variables:
        value = back.get(variable.path)
        if value is None:
            value = arrays[variable.path]
        variable.assign(value)
    assert set(back) <= {variable.path for variable in fresh.variables}
    close(fresh(x, training=False), ours.apply(variables, x, train=False))


@needs_renorm
def test_batch_renormalization(rng):
    bounds = {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0}
    theirs = keras.layers.BatchNormalization(
        renorm=True, renorm_clipping=bounds, momentum=0.9, renorm_momentum=0.9,
        name="bn",
    )  # fmt: skip
    x = place(rng.normal(1, 2, (8, 5)))
    theirs.build(x.shape)
    for _ in range(3):
        theirs(x + 1, training=True)
    ours = jaxnorm.linen.BatchRenorm(r_max=2.0, d_max=1.0, momentum=0.9, epsilon=1e-3)
    arrays = {variable.path: variable for variable in theirs.variables}
    paths = {name: () for name in paths_of(arrays)}
    variables = tools.norms_from_keras(arrays, paths, count=3)

    def close(y, expected):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    close(ours.apply(variables, x, use_running_average=True), theirs(x, training=False))
    y, updates = ours.apply(
        variables, x, use_running_average=False, mutable=["batch_stats"]
    )
    close(y, theirs(x, training=True))
    back = tools.norms_to_keras({**variables, **updates}, paths)
    assert back.keys() == arrays.keys()
    for variable in theirs.variables:
        close(back[variable.path], variable)


def test_rms_normalization(rng):
    theirs = keras.Sequential(
        [keras.Input((5, 6)), keras.layers.RMSNormalization(name="rms")], name="net"
    )
    scale = rng.uniform(0.5, 2, 6).astype(np.float32)
    theirs.variables[0].assign(scale)
    arrays = arrays_of(theirs)
    (path,) = arrays
    name = path.rpartition("/")[0]
    found = tools.norms_from_keras(arrays, {name: ("rms",)})
    np.testing.assert_array_equal(found["params"]["rms"]["scale"], scale)
    x = place(rng.normal(size=(3, 5, 6)).astype(np.float32))
    ours = jaxnorm.linen.RMSNorm(epsilon=1e-6)
    y = ours.apply({"params": found["params"]["rms"]}, x)
    np.testing.assert_allclose(y, theirs(np.asarray(x)), rtol=1e-5, atol=1e-6)
    back = tools.norms_to_keras(found, {name: ("rms",)})
    np.testing.assert_array_equal(back[f"{name}/gamma"], scale)
