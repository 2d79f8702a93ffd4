"""Weight and spectral norm of PyTorch, made of arrays, to variables and back."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import place
from support.refusals import refused
from support.tiers import diagonal, matrix

import jaxnorm.linen
from jaxnorm import tools

SHAPES = {"linear": (4, 3), "conv": (4, 3, 5, 2)}  # output features first


def old_names(arrays):
    """Of torch.nn.utils, for those of torch.nn.utils.parametrizations."""
    weight = "weight_v" if "parametrizations.weight.original1" in arrays else (
        "weight_orig"
    )  # fmt: skip
    names = {
        "original0": "weight_g",
        "original1": weight,
        "original": weight,
        "_u": "weight_u",
        "_v": "weight_v",
    }
    return {names.get(k.rpartition(".")[2], k): value for k, value in arrays.items()}


def torch_layer(kind, shape, rng, dim=0):
    """The state_dict of a layer, and the weight that it computes with."""
    v = rng.normal(size=shape).astype(np.float32)
    bias = rng.normal(size=shape[0]).astype(np.float32)
    if kind == "weight":
        axes = None if dim is None else tuple(range(1, len(shape)))
        g = np.abs(rng.normal(size=np.sum(v, axes, keepdims=axes is not None).shape))
        weight = g * v / np.sqrt(np.sum(v.astype(float) ** 2, axes, keepdims=True))
        own = {"original0": np.float32(g), "original1": v}
    else:
        u, singular, right = np.linalg.svd(v.reshape(len(v), -1))
        weight = v / singular[0]
        own = {"original": v, "0._u": u[:, 0], "0._v": right[0]}
    named = {f"parametrizations.weight.{key}": value for key, value in own.items()}
    return {"bias": bias} | named, weight


KINDS = {
    "weight": (jaxnorm.linen.WeightNorm, {"epsilon": 0.0}, {}),
    "spectral": (jaxnorm.linen.SpectralNorm, {}, {"update_stats": False}),
}


STYLES = ("parametrizations", "old")


@pytest.mark.parametrize(
    ("kind", "shape", "style"),
    matrix(
        itertools.product(KINDS, SHAPES, STYLES),
        often=diagonal(KINDS, ["linear"], STYLES),
    ),
)
def test_a_layer_computes_as_there_and_goes_back(kind, shape, style, rng):
    cls, options, call = KINDS[kind]
    arrays, weight = torch_layer(kind, SHAPES[shape], rng)
    if style == "old":
        arrays = old_names(arrays)
    state_dict = {f"a.0.{key}": value for key, value in arrays.items()}
    given = state_dict | {"other.weight": np.ones(3)}
    found = tools.weights_from_torch(given)
    if shape == "linear":
        layer, x = nn.Dense(4), rng.normal(size=(2, 3))
        expected = x @ weight.T + arrays["bias"]
    else:
        layer, x = nn.Conv(4, (5, 2), padding="VALID"), rng.normal(size=(1, 5, 2, 3))
        expected = np.einsum("nhwi,oihw->no", x, weight)[:, None, None]
        expected = expected + arrays["bias"]
    variables = {kind: tree["a"]["0"] for kind, tree in found.items() if tree}
    y = cls(layer, **options).apply(variables, place(x), **call)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    if kind == "spectral":
        sigma = variables["batch_stats"]["layer_instance/kernel/sigma"]
        largest = np.linalg.svd(weight.reshape(4, -1))[1][0]
        np.testing.assert_allclose(largest, 1, rtol=1e-5)
        np.testing.assert_allclose(sigma, 1 / np.max(weight / _weight_of(arrays)))
    back = tools.weights_to_torch(found, parametrized=style != "old")
    chex.assert_trees_all_equal_shapes_and_dtypes(back, state_dict)
    chex.assert_trees_all_close(back, state_dict, rtol=1e-5, atol=1e-6)


def _weight_of(arrays):
    names = ("parametrizations.weight.original", "weight_orig")
    return next(arrays[name] for name in names if name in arrays)


def test_one_norm_for_the_whole_weight(rng):
    arrays, weight = torch_layer("weight", (4, 3), rng, dim=None)
    variables = tools.weights_from_torch(arrays)
    layer = jaxnorm.linen.WeightNorm(nn.Dense(4), feature_axes=None)
    y = layer.apply(variables, jnp.eye(3))
    np.testing.assert_allclose(y, weight.T + arrays["bias"], rtol=1e-5, atol=1e-6)
    back = tools.weights_to_torch(variables)
    chex.assert_trees_all_equal_shapes_and_dtypes(back, arrays)
    chex.assert_trees_all_equal(back, arrays)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("old", [True, False])
def test_norms_of_another_axis_are_not_taken_for_those_of_the_outputs(shape, old, rng):
    arrays, _ = torch_layer("weight", (4, 4, *SHAPES[shape][2:]), rng)
    key = "parametrizations.weight.original0"
    arrays[key] = np.moveaxis(arrays[key], 0, 1)  # dim=1
    with refused("dim=0", str(arrays[key].shape)):
        tools.weights_from_torch(old_names(arrays) if old else arrays)


@pytest.mark.parametrize("zero", [True, False])
def test_spectral_norm_that_has_not_converged_computes_the_same_there(zero, rng):
    arrays, _ = torch_layer("spectral", (4, 3), rng)
    weight, *directions = (
        f"parametrizations.weight.{key}" for key in ("original", "0._u", "0._v")
    )
    for key in directions:  # as after the first step
        drawn = rng.normal(size=arrays[key].shape)
        arrays[key] = np.float32(drawn / np.linalg.norm(drawn))
    arrays[weight] *= not zero
    back = tools.weights_to_torch(tools.weights_from_torch(arrays))
    assert all(np.all(np.isfinite(value)) for value in back.values())
    before, after = (
        tree[directions[0]] @ tree[weight] @ tree[directions[1]]
        for tree in (arrays, back)
    )
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_within_a_model(rng):
    """Where Flax puts the layer beside its wrapper."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jaxnorm.linen.WeightNorm(nn.Dense(4))(x)

    arrays, weight = torch_layer("weight", (4, 3), rng)
    state_dict = {f"fc.{key}": value for key, value in arrays.items()}
    layers = {"fc": (("WeightNorm_0",), ("Dense_0",))}
    new = tools.weights_from_torch(state_dict, layers)
    variables = Net().init(jax.random.key(0), jnp.ones((1, 3)))
    variables = tools.insert_variables(variables, {"params": new["params"]})
    y = Net().apply(variables, jnp.eye(3))
    np.testing.assert_allclose(y, weight.T + arrays["bias"], rtol=1e-5, atol=1e-6)
    back = tools.weights_to_torch(variables, layers)
    chex.assert_trees_all_equal(back, state_dict)


def test_layers_that_are_not_found_are_an_error(rng):
    arrays, _ = torch_layer("weight", (4, 3), rng)
    with refused("weights_from_torch"):
        tools.norms_from_torch({f"a.{k}": v for k, v in arrays.items()}, {"a": ("a",)})
    with refused("found", "none"):
        tools.weights_from_torch({"a.weight": np.ones(3)})
    with refused("found", "none"):
        tools.weights_to_torch({"params": {"a": np.ones(3)}})
    pair = (("a",), ("a", "layer_instance"))
    with refused("b", "original0"):
        tools.weights_from_torch(arrays, {"b": pair})
    with refused("kernel", "paths"):
        tools.weights_to_torch({"params": {}}, {"a": pair})
    with refused("different", "paths"):
        tools.weights_from_torch(arrays, {"": ((), ())})


class Parameter:
    """What PyTorch hands no NumPy before it is detached."""

    def __init__(self, value):
        self._value = value

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def detach(self):
        return self._value


def test_parameters_that_require_a_gradient():
    one = np.ones(2, np.float32)
    state_dict = {"weight": Parameter(one), "bias": Parameter(one)}
    found = tools.norms_from_torch(state_dict, {"": ("norm",)})
    np.testing.assert_array_equal(found["params"]["norm"]["scale"], one)


def test_boxes_of_partitioned_parameters():
    box = nn.Partitioned(np.float32([1, 2]), names=("x",))
    variables = {"params": {"norm": {"scale": box}}}
    found = tools.norms_to_torch(variables, {"norm": ("norm",)})
    np.testing.assert_array_equal(found["norm.weight"], [1, 2])
    new = {"params": {"norm": {"scale": np.float32([3, 4])}}}
    scale = tools.insert_variables(variables, new)["params"]["norm"]["scale"]
    assert scale.names == ("x",)
    np.testing.assert_array_equal(scale.value, [3, 4])
    with refused("(2,)", "(3,)"):
        new["params"]["norm"]["scale"] = np.ones(3)
        tools.insert_variables(variables, new)


def test_momentum_of_none_names_its_conversion(as_users_run_it):
    x = jnp.ones((2, 3))
    norm = jaxnorm.linen.BatchNorm(use_running_average=False, momentum=None)
    with refused("momentum", "jaxnorm.tools.momentum_from_torch(None)"):
        norm.init_with_output(jax.random.key(0), x)
