"""PyTorch models and their twins in Flax, the one's checkpoint in the other."""

import copy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.beside_torch import (
    batch,
    channels_last,
    kernels,
    one_thread,  # noqa: F401
    randomize,
    same_statistics,
    torch,
)
from support.refusals import refused

import jaxnorm.linen
from jaxnorm import tools

pytestmark = pytest.mark.peers


class Layer(NamedTuple):
    width: int
    affine: bool
    momentum: float | None
    epsilon: float
    bias: bool


class FlaxNet(nn.Module):
    layers: tuple[Layer, ...]

    @nn.compact
    def __call__(self, x, train):
        for i, layer in enumerate(self.layers):
            x = nn.Conv(layer.width, (3, 3), padding=1, use_bias=layer.bias,
                        name=f"conv{i}")(x)  # fmt: skip
            x = jaxnorm.linen.BatchNorm(
                use_running_average=not train,
                momentum=tools.momentum_from_torch(layer.momentum),
                epsilon=layer.epsilon,
                use_scale=layer.affine,
                use_bias=layer.affine,
                unbiased=True,
                name=f"bn{i}",
            )(x)
            x = nn.relu(x)
        return x


def torch_net(layers, channels):
    modules = []
    for layer in layers:
        modules += [
            torch.nn.Conv2d(channels, layer.width, 3, padding=1, bias=layer.bias),
            torch.nn.BatchNorm2d(
                layer.width, layer.epsilon, layer.momentum, layer.affine
            ),
            torch.nn.ReLU(),
        ]
        channels = layer.width
    return torch.nn.Sequential(*modules)


def draw_layers(rng):
    cumulative = rng.uniform() < 0.4  # in all or none: counts are for all or none
    return tuple(
        Layer(
            width=int(rng.integers(1, 9)),
            affine=bool(rng.uniform() < 0.7),
            momentum=None if cumulative else float(rng.choice([0.01, 0.1, 0.5])),
            epsilon=float(rng.choice([1e-5, 1e-3])),
            bias=bool(rng.uniform() < 0.5),
        )
        for _ in range(rng.integers(1, 4))
    )


@pytest.mark.parametrize("seed", range(6))
def test_random_models_there_and_back(seed):
    rng = np.random.default_rng(seed)
    layers = draw_layers(rng)
    counted = layers[0].momentum is None
    theirs = randomize(torch_net(layers, 3), rng)
    ours = FlaxNet(layers)
    x, x_torch = batch(rng, (4, 6, 5, 3))

    state_dict = theirs.state_dict()
    paths = {str(3 * i + 1): (f"bn{i}",) for i in range(len(layers))}
    norms = tools.norms_from_torch(state_dict, paths, counted=counted)
    rest = kernels(state_dict, {str(3 * i): (f"conv{i}",) for i in range(len(layers))})
    variables = ours.init(jax.random.key(0), x, train=True)
    variables = tools.insert_variables(tools.insert_variables(variables, norms), rest)
    for name, (bn,) in paths.items():
        stats = variables["batch_stats"][bn]
        np.testing.assert_array_equal(stats["mean"], state_dict[f"{name}.running_mean"])
        np.testing.assert_array_equal(stats["var"], state_dict[f"{name}.running_var"])

    def same_inference():
        y = ours.apply(variables, x, train=False)
        with torch.no_grad():
            expected = channels_last(theirs.eval()(x_torch))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    same_inference()
    theirs.train()
    for _ in range(2):
        y, updates = ours.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {**variables, **updates}
        expected = channels_last(theirs(x_torch))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    same_statistics(variables, theirs, paths)
    same_inference()

    back = tools.norms_to_torch(variables, paths)
    fresh = torch_net(layers, 3)
    missing, unexpected = fresh.load_state_dict(
        {k: torch.from_numpy(v) for k, v in back.items()}, strict=False
    )
    assert not unexpected
    assert {name.split(".")[0] for name in missing} <= {
        str(3 * i) for i in range(len(layers))
    }
    for name, (bn,) in paths.items():
        module = fresh[int(name)]
        stats = variables["batch_stats"][bn]
        np.testing.assert_array_equal(module.running_mean, stats["mean"])
        np.testing.assert_array_equal(module.running_var, stats["var"])
        if counted:
            assert module.num_batches_tracked == theirs[int(name)].num_batches_tracked


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(dtype, rng):
    model = randomize(torch.nn.BatchNorm2d(5), rng).to(getattr(torch, dtype))
    found = tools.norms_from_torch(model.state_dict())
    for value, tensor in [
        (found["params"]["scale"], model.weight),
        (found["batch_stats"]["var"], model.running_var),
    ]:
        assert value.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(value.astype(float), tensor.detach().double())
    back = {
        name: torch.from_dlpack(jnp.asarray(value))
        if dtype == "bfloat16"
        else torch.from_numpy(value)
        for name, value in tools.norms_to_torch(found).items()
    }
    other = torch.nn.BatchNorm2d(5, dtype=getattr(torch, dtype))
    other.load_state_dict(back)  # strictly, though without num_batches_tracked
    assert torch.equal(other.running_var, model.running_var)


VIEWS = {
    "strided": lambda x: x[::2],
    "of a column": lambda x: x.reshape(3, 2)[:, 1],
    "reversed": lambda x: x.flip(0),
    "expanded": lambda x: x[:1].expand(3),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", VIEWS)
def test_views_of_other_tensors(name, dtype, rng):
    values = torch.from_numpy(rng.normal(1, 0.3, 6)).to(getattr(torch, dtype))
    view = VIEWS[name](values)
    found = tools.norms_from_torch({"norm.weight": view}, {"norm": ("norm",)})
    scale = found["params"]["norm"]["scale"]
    assert scale.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(scale.astype(float), view.double())


def test_a_conjugate_is_computed(rng):
    values = torch.from_numpy(rng.normal(1, 0.3, 3) + 1j)
    found = tools.norms_from_torch({"norm.weight": values.conj()}, {"norm": ("norm",)})
    np.testing.assert_array_equal(
        found["params"]["norm"]["scale"], values.numpy().conj()
    )


UNREADABLE = {
    "meta": lambda: torch.ones(3, device="meta"),
    "sparse": lambda: torch.ones(3).to_sparse(),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_without_plain_values(kind):
    with refused("norm.weight must be a dense tensor on the CPU"):
        tools.norms_from_torch({"norm.weight": UNREADABLE[kind]()}, {"norm": ("norm",)})


def test_training_on_there_changes_nothing_here(rng):
    model = randomize(torch.nn.BatchNorm1d(5), rng)
    found = tools.norms_from_torch(model.state_dict())
    before = copy.deepcopy(found)
    model(torch.ones(3, 5))
    jax.tree.map(np.testing.assert_array_equal, found, before)


def test_elements_make_the_variance_biased(rng):
    x, x_torch = batch(rng, (2, 3, 2, 5))
    model = torch.nn.BatchNorm2d(5, momentum=1.0)
    model(x_torch)
    found = tools.norms_from_torch(model.state_dict(), elements=2 * 3 * 2)
    norm = jaxnorm.linen.BatchNorm(
        use_running_average=False, momentum=tools.momentum_from_torch(1.0)
    )
    _, ours = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    var = found["batch_stats"]["var"]
    np.testing.assert_allclose(var, ours["batch_stats"]["var"], rtol=1e-5)
    back = tools.norms_to_torch(ours, {"": ()}, elements=12)
    np.testing.assert_allclose(back["running_var"], model.running_var, rtol=1e-5)


OF_EXAMPLES = {
    "layer": (
        lambda: torch.nn.LayerNorm([4, 6]),
        jaxnorm.linen.LayerNorm(1e-5, reduction_axes=(-2, -1), feature_axes=(-2, -1)),
        False,
    ),
    "rms": (
        lambda: torch.nn.RMSNorm(6, eps=1e-6),
        jaxnorm.linen.RMSNorm(1e-6),
        False,
    ),
    "group": (
        lambda: torch.nn.GroupNorm(3, 6),
        jaxnorm.linen.GroupNorm(3, epsilon=1e-5),
        True,
    ),
    "instance": (
        lambda: torch.nn.InstanceNorm1d(6, affine=True),
        jaxnorm.linen.InstanceNorm(epsilon=1e-5),
        True,
    ),
}


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_layers_without_statistics(name, rng):
    make, ours, channels_first = OF_EXAMPLES[name]
    theirs = torch.nn.Sequential(randomize(make(), rng))
    found = tools.norms_from_torch(theirs.state_dict(), {"0": ("norm",)})
    assert found["batch_stats"] == {}
    x, x_torch = batch(rng, (3, 4, 6))
    if channels_first:
        expected = channels_last(theirs(x_torch))
    else:
        expected = theirs(torch.from_numpy(np.array(x))).detach().numpy()
    y = ours.apply({"params": found["params"]["norm"]}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    back = tools.norms_to_torch(found, {"0": ("norm",)})
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()})


WEIGHTS = {
    "weight norm": (
        torch.nn.utils.parametrizations.weight_norm,
        lambda layer: jaxnorm.linen.WeightNorm(layer, epsilon=0.0),
    ),
    "spectral norm": (
        lambda layer: torch.nn.utils.parametrizations.spectral_norm(
            layer, n_power_iterations=50
        ),
        jaxnorm.linen.SpectralNorm,
    ),
    "old weight norm": (torch.nn.utils.weight_norm, jaxnorm.linen.WeightNorm),
    "old spectral norm": (
        lambda layer: torch.nn.utils.spectral_norm(layer, n_power_iterations=50),
        jaxnorm.linen.SpectralNorm,
    ),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated in favor of.*:FutureWarning")
@pytest.mark.parametrize("kind", WEIGHTS)
def test_layers_with_normalized_weights(kind, rng):
    wrap, ours = WEIGHTS[kind]
    torch.manual_seed(0)  # for some weights 50 iterations do not suffice
    theirs = torch.nn.Sequential(wrap(torch.nn.Conv2d(3, 4, (3, 2))))
    x, x_torch = batch(rng, (2, 5, 5, 3))
    theirs(x_torch)  # moves the singular vectors, in training
    theirs.eval()
    found = tools.weights_from_torch(dict(theirs.named_parameters())
                                     | dict(theirs.named_buffers()))  # fmt: skip
    variables = {name: tree["0"] for name, tree in found.items() if tree}
    layer = ours(nn.Conv(4, (3, 2), padding="VALID"))
    call = {"update_stats": False} if "spectral" in kind else {}
    y = layer.apply(variables, x, **call)
    np.testing.assert_allclose(y, channels_last(theirs(x_torch)), rtol=1e-4, atol=1e-5)
    back = tools.weights_to_torch(found, parametrized="old" not in kind)
    other = torch.nn.Sequential(wrap(torch.nn.Conv2d(3, 4, (3, 2)))).eval()
    other.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()})
    np.testing.assert_allclose(
        other(x_torch).detach(), theirs(x_torch).detach(), rtol=1e-4, atol=1e-5
    )
