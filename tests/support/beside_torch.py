"""PyTorch models and their twins in Flax: the same input, parameters, statistics."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(rng, shape):
    """Images with large and small features, channels last; and for PyTorch."""
    x = rng.normal(size=shape) * rng.uniform(0.5, 3, shape[-1]) + rng.normal(size=shape)
    x = x.astype(np.float32)
    return jax.device_put(x), torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def channels_last(y):
    return np.moveaxis(y.detach().numpy(), 1, -1)


def randomize(model, rng):
    """Draws statistics and parameters, as if the model were trained."""
    norms = torch.nn.LayerNorm | torch.nn.RMSNorm  # whose weights may have two axes
    scales = {
        f"{name}.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, norms)
    }
    for name, tensor in model.state_dict().items():
        if "tracked" in name:
            tensor.fill_(int(rng.integers(1, 9)))
        elif "var" in name:
            tensor.copy_(torch.from_numpy(rng.uniform(0.3, 3, tensor.shape)))
        else:
            fan_in = 1 if name in scales else np.prod(tensor.shape[1:])
            shift = 1.0 if fan_in == 1 and "weight" in name else 0.0
            drawn = rng.normal(
                shift, 0.5 if fan_in == 1 else fan_in**-0.5, tensor.shape
            )
            tensor.copy_(torch.from_numpy(drawn))
    return model


def kernels(state_dict, paths):
    """OIHW to HWIO, and (out, in) to (in, out); with the biases."""
    params = {}
    for name, path in paths.items():
        node = params
        for part in path:
            node = node.setdefault(part, {})
        weight = state_dict[f"{name}.weight"].numpy()
        node["kernel"] = weight.transpose((2, 3, 1, 0) if weight.ndim == 4 else (1, 0))
        if f"{name}.bias" in state_dict:
            node["bias"] = state_dict[f"{name}.bias"].numpy()
    return {"params": params}


def same_statistics(variables, model, paths):
    modules = dict(model.named_modules())
    for name, path in paths.items():
        stats = variables["batch_stats"]
        for part in path:
            stats = stats[part]
        module = modules[name]
        scale = np.sqrt(module.running_var.numpy())
        assert np.all(
            np.abs(stats["mean"] - module.running_mean.numpy()) <= 1e-5 * scale
        )
        np.testing.assert_allclose(stats["var"], module.running_var, rtol=1e-5)
