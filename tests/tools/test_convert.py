"""Checkpoints of PyTorch, Keras and Haiku, made of arrays, to variables and back."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import place

import jaxnorm.linen
from jaxnorm import tools

pytestmark = pytest.mark.usefixtures("annotations_checked")

FEATURES = 5
DTYPES = [np.float16, jnp.bfloat16, np.float32, np.float64]


@pytest.fixture
def layer(rng):
    """Draws the arrays of one layer, by our names."""

    def draw(dtype=np.float32, features=FEATURES, names=("scale", "bias", "mean")):
        drawn = {
            name: rng.normal(name == "scale", size=features).astype(dtype)
            for name in names
        }
        if "mean" in names:
            drawn["var"] = rng.uniform(0.5, 2, features).astype(dtype)
        return drawn

    return draw


def torch_arrays(layer, name="bn", count=7):
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean",
             "var": "running_var"}  # fmt: skip
    arrays = {f"{name}.{names[key]}": value for key, value in layer.items()}
    if "mean" in layer:
        arrays[f"{name}.num_batches_tracked"] = np.array(count)
    return arrays


def keras_arrays(layer, name="bn"):
    names = {"scale": "gamma", "bias": "beta", "mean": "moving_mean",
             "var": "moving_variance"}  # fmt: skip
    return {f"{name}/{names[key]}": value for key, value in layer.items()}


def haiku_arrays(layer, name="bn", shape=(1, 1, 1, -1), counter=7):
    shaped = {key: value.reshape(shape) for key, value in layer.items()}
    own = {"scale": "scale", "bias": "offset"}
    params = {own[key]: shaped[key] for key in own if key in layer}
    state = {}
    for key in ("mean", "var"):
        if key in layer:
            hidden = shaped[key].astype(np.float64) * (1 - 0.9**counter)
            state[f"{name}/~/{key}_ema"] = {
                "average": shaped[key],
                "hidden": hidden.astype(shaped[key].dtype),
                "counter": np.array(counter, np.int32),
            }
    return ({name: params} if params else {}), state


def variables_of(layer, path=("bn",)):
    variables = {"params": {}, "batch_stats": {}}
    for key, value in layer.items():
        node = variables["params" if key in ("scale", "bias") else "batch_stats"]
        for part in path:
            node = node.setdefault(part, {})
        node[key] = value
    return variables


def from_haiku(arrays, *args, **kwargs):
    return tools.norms_from_haiku(*arrays, *args, **kwargs)


def to_haiku(variables, layers=None, shape=(1, 1, 1, -1), counter=7):
    return tools.norms_to_haiku(
        variables, layers, shape=shape, decay_rate=0.9, counter=counter
    )


MAKE = {"torch": torch_arrays, "keras": keras_arrays, "haiku": haiku_arrays}
READ = {
    "torch": tools.norms_from_torch,
    "keras": tools.norms_from_keras,
    "haiku": from_haiku,
}
WRITE = {
    "torch": tools.norms_to_torch,
    "keras": tools.norms_to_keras,
    "haiku": to_haiku,
}
every_framework = pytest.mark.parametrize("framework", MAKE)


def same_bits(found, expected):
    chex.assert_trees_all_equal_structs(found, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == np.asarray(b).tobytes()


@every_framework
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("features", [1, FEATURES])
def test_bits_and_dtypes_stay_both_ways(framework, dtype, features, layer):
    drawn = layer(dtype, features)
    drawn["bias"][0], drawn["mean"][-1] = np.nan, -0.0
    expected = variables_of(drawn)
    arrays = MAKE[framework](drawn)
    same_bits(READ[framework](arrays), expected)
    as_jax = jax.tree.map(lambda x: x if x.dtype == np.float64 else jax.device_put(x),
                          arrays)  # fmt: skip
    same_bits(READ[framework](as_jax), expected)
    if framework == "torch":
        del arrays["bn.num_batches_tracked"]  # there is no count to make it of
    same_bits(WRITE[framework](expected), arrays)


@every_framework
def test_arrays_are_copies(framework, layer):
    drawn = layer()
    arrays = MAKE[framework](drawn)
    for convert, tree in [
        (READ[framework], arrays),
        (WRITE[framework], variables_of(drawn)),
    ]:
        for leaf in jax.tree.leaves(convert(tree)):
            assert leaf.flags.writeable
            assert not any(np.shares_memory(leaf, own) for own in drawn.values())


@every_framework
@pytest.mark.parametrize("names", [("mean",), ("scale", "mean"), ("bias", "mean")])
def test_layers_without_scale_or_bias(framework, names, layer):
    drawn = layer(names=names)
    found = READ[framework](MAKE[framework](drawn))
    same_bits(found, variables_of(drawn))
    same_bits(READ[framework](WRITE[framework](found)), found)


@every_framework
def test_a_model_with_its_correspondence_and_without(framework, layer):
    separator = "." if framework == "torch" else "/"
    name = separator.join(["layer1", "0", "bn"])
    batch, other = layer(), layer(names=("scale",))
    convolution = {separator.join(["conv", "kernel"]): np.zeros((3, 3, 4, 5))}
    arrays = MAKE[framework](batch, name=name), MAKE[framework](other, name="norm")
    if framework == "haiku":
        convolution = {"conv": {"w": np.zeros((3, 3, 4, 5))}}
        merged = arrays[0][0] | arrays[1][0] | convolution, arrays[0][1] | arrays[1][1]
    else:
        merged = arrays[0] | arrays[1] | convolution

    # by itself, what has statistics is found
    same_bits(READ[framework](merged), variables_of(batch, ("layer1", "0", "bn")))

    paths = {name: ("Block_0", "BatchNorm_0"), "norm": ("RMSNorm_0",)}
    expected = variables_of(batch, paths[name])
    expected["params"] |= variables_of(other, paths["norm"])["params"]
    found = READ[framework](merged, paths)
    same_bits(found, expected)

    # and so is the way back, among the other variables of the model
    found["params"]["Conv_0"] = {"kernel": np.zeros((3, 3, 4, 5))}
    back = WRITE[framework](found, paths)
    same_bits(READ[framework](back, paths), expected)
    joined = WRITE[framework](found)
    names = [*joined[0], *joined[1]] if framework == "haiku" else joined
    assert all(key.startswith(separator.join(paths[name])) for key in names)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_one_layer_by_itself(framework, layer):
    drawn = layer()
    arrays = {
        key.removeprefix("bn.").removeprefix("bn/"): value
        for key, value in MAKE[framework](drawn).items()
    }
    found = READ[framework](arrays)
    same_bits(found, variables_of(drawn, ()))
    assert WRITE[framework](found).keys() | {"num_batches_tracked"} == (
        arrays.keys() | {"num_batches_tracked"}
    )
    x = place(np.random.default_rng(1).normal(size=(3, FEATURES)))
    y = jaxnorm.linen.BatchNorm(use_running_average=True).apply(found, x)
    centered = np.asarray(x, np.float64) - drawn["mean"]
    expected = centered / np.sqrt(drawn["var"] + 1e-5)
    expected = expected * drawn["scale"] + drawn["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_variance_of_torch_is_unbiased(dtype, layer):
    drawn, n = layer(dtype), 8
    arrays = torch_arrays(drawn)
    biased = tools.norms_from_torch(arrays, elements=n)["batch_stats"]["bn"]["var"]
    assert biased.dtype == dtype
    expected = np.asarray(drawn["var"], np.float64) * 7 / 8
    np.testing.assert_array_equal(biased, expected.astype(dtype))
    back = tools.norms_to_torch(
        variables_of(drawn | {"var": biased}), elements={"bn": n}
    )
    epsilon = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        back["bn.running_var"].astype(np.float64),
        np.asarray(drawn["var"], np.float64),
        rtol=2 * epsilon,
    )


def test_elements_of_each_layer(layer):
    drawn = layer()
    arrays = torch_arrays(drawn, "a") | torch_arrays(drawn, "b")
    arrays |= torch_arrays(layer(names=("scale",)), "norm")
    paths = {name: (name,) for name in ("a", "b", "norm")}
    stats = tools.norms_from_torch(arrays, paths, elements={"a": 2, "b": 4})
    stats = stats["batch_stats"]
    np.testing.assert_allclose(stats["a"]["var"], drawn["var"] / 2, rtol=1e-6)
    np.testing.assert_allclose(stats["b"]["var"], drawn["var"] * 3 / 4, rtol=1e-6)


def test_counts(layer):
    drawn = layer()
    for found in (
        tools.norms_from_torch(torch_arrays(drawn), counted=True),
        tools.norms_from_keras(keras_arrays(drawn), count=7),
        tools.norms_from_haiku(*haiku_arrays(drawn), counted=True),
    ):
        same_bits(found, variables_of(drawn | {"count": np.array(7, np.float32)}))
    same_bits(tools.norms_from_torch(torch_arrays(drawn)), variables_of(drawn))
    same_bits(tools.norms_to_torch(found), torch_arrays(drawn))
    same_bits(tools.norms_to_keras(found), keras_arrays(drawn))
    same_bits(to_haiku(found, counter=None), haiku_arrays(drawn))
    norm = layer(names=("scale",))
    others = torch_arrays(drawn) | torch_arrays(norm, "norm")
    paths = {name: (name,) for name in ("bn", "norm")}
    both = tools.norms_from_torch(others, paths, counted=True)
    assert both["params"]["norm"].keys() == {"scale"}
    same_bits(both["batch_stats"], found["batch_stats"])


def test_training_goes_on_from_the_count(layer):
    drawn = layer()
    found = tools.norms_from_torch(torch_arrays(drawn), counted=True)
    norm = jaxnorm.linen.BatchNorm(
        use_running_average=False, momentum=tools.momentum_from_torch(None)
    )
    x = place(np.random.default_rng(1).normal(size=(3, FEATURES)))
    _, updates = norm.apply(
        {name: variables["bn"] for name, variables in found.items()},
        x,
        mutable=["batch_stats"],
    )
    assert updates["batch_stats"]["count"] == 8
    expected = drawn["mean"] * 7 / 8 + np.mean(x, 0) / 8
    np.testing.assert_allclose(updates["batch_stats"]["mean"], expected, rtol=1e-5)


def test_renorm_of_keras(layer):
    drawn = layer()
    std = np.sqrt(drawn["var"] + np.float32(1e-3))
    arrays = keras_arrays(drawn) | {
        "bn/moving_stddev": std,
        "bn/renorm_mean": drawn["mean"],
        "bn/renorm_stddev": std,
    }
    found = tools.norms_from_keras(arrays, count=9)
    del drawn["var"]
    expected = drawn | {"std": std, "count": np.array(9, np.float32)}
    same_bits(found, variables_of(expected))
    back = tools.norms_to_keras(found)
    np.testing.assert_allclose(
        back.pop("bn/moving_variance"), arrays.pop("bn/moving_variance"), rtol=1e-5
    )
    same_bits(back, arrays)

    with pytest.raises(ValueError, match="count must be given"):
        tools.norms_from_keras(arrays)
    arrays["bn/renorm_mean"] = drawn["mean"] + 1
    with pytest.raises(ValueError, match="To preserve inference"):
        tools.norms_from_keras(arrays, count=9)
    del arrays["bn/renorm_mean"], arrays["bn/renorm_stddev"]
    same_bits(tools.norms_from_keras(arrays, count=9), found)
    for write in (tools.norms_to_torch, to_haiku):
        with pytest.raises(ValueError, match="must have arrays that"):
            write(found if write is tools.norms_to_torch else without_count(found))


def without_count(variables):
    stats = {key: value for key, value in variables["batch_stats"]["bn"].items()
             if key != "count"}  # fmt: skip
    return variables | {"batch_stats": {"bn": stats}}


@pytest.mark.parametrize("shape", [(1, 1, 1, -1), (1, -1), (1, -1, 1, 1), (-1,)])
def test_shapes_of_haiku(shape, layer):
    drawn = layer()
    arrays = haiku_arrays(drawn, shape=shape)
    found = tools.norms_from_haiku(*arrays)
    same_bits(found, variables_of(drawn))
    same_bits(to_haiku(found, shape={"bn": shape}), arrays)


@pytest.mark.parametrize("decay_rate", [0.5, 0.9, 0.999, 1 - 1e-6])
def test_the_average_of_haiku(decay_rate, rng):
    momentum = tools.momentum_from_haiku(decay_rate)
    hidden, average = 0.0, 123.0
    for t in range(50):
        value = rng.normal(5)
        hidden = decay_rate * hidden + (1 - decay_rate) * value
        weight = float(momentum(jnp.float32(t)))
        average = weight * average + (1 - weight) * value
        np.testing.assert_allclose(
            average, hidden / (1 - decay_rate ** (t + 1)), rtol=1e-5
        )
    assert momentum == tools.momentum_from_haiku(decay_rate)
    np.testing.assert_allclose(momentum(1e9), decay_rate, rtol=1e-6)


def test_momentum_of_torch():
    assert tools.momentum_from_torch(0.1) == 0.9
    assert tools.momentum_to_torch(tools.momentum_from_torch(0.25)) == 0.25
    cumulative = tools.momentum_from_torch(None)
    assert [float(cumulative(t)) for t in (0, 1, 3)] == [0, 0.5, 0.75]
    assert tools.momentum_to_torch(cumulative) is None
    assert cumulative == tools.momentum_from_torch(None)


def test_what_is_inserted_has_a_place(layer):
    model = variables_of(layer()) | {"cache": {"n": np.array(1)}}
    model["params"]["conv"] = {"kernel": np.zeros((3, 3))}
    new = variables_of(layer())
    inserted = tools.insert_variables(model, new)
    same_bits(inserted, {
        "params": new["params"] | {"conv": model["params"]["conv"]},
        "batch_stats": new["batch_stats"],
        "cache": model["cache"],
    })  # fmt: skip
    with pytest.raises(ValueError, match="must have a leaf at"):
        tools.insert_variables(model, variables_of(layer(), ("bm",)))
    with pytest.raises(ValueError, match=r"the shape \(5,\), got \(1,\)"):
        tools.insert_variables(model, variables_of(layer(features=1)))
    with pytest.raises(ValueError, match="must have a leaf at"):
        tools.insert_variables(model, {"params": {"conv": np.zeros(3)}})


def test_parameters_without_statistics_are_warned_of(layer):
    model = variables_of(layer()) | {"cache": {"n": np.array(1)}}
    new = {"params": variables_of(layer())["params"]}
    with pytest.warns(UserWarning, match=r"\[\('bn',\)\] get new parameters") as warned:
        inserted = tools.insert_variables(model, new)
    assert warned[0].filename == __file__
    same_bits(inserted, model | new)
    tools.insert_variables({"params": model["params"]}, new)  # a layer without any


def test_the_same_tree_from_each_framework(layer):
    drawn = layer()
    trees = [READ[name](MAKE[name](drawn)) for name in MAKE]
    for tree in trees:
        same_bits(tree, variables_of(drawn))


def test_no_framework_is_imported():
    frameworks = {"flax", "haiku", "keras", "tensorflow", "torch"}
    code = f"import sys, jaxnorm.tools; print({frameworks} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
