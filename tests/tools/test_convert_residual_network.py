"""A residual network with torchvision's names, loaded by a correspondence of layers."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from support.beside_torch import (
    batch,
    kernels,
    one_thread,  # noqa: F401
    randomize,
    same_statistics,
    torch,
)

import jaxnorm.linen
from jaxnorm import tools

pytestmark = pytest.mark.peers


class TorchBlock(torch.nn.Module):
    """A basic block of a residual network, with the names of torchvision."""

    def __init__(self, channels, width, stride):
        super().__init__()
        conv = torch.nn.Conv2d
        self.conv1 = conv(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1:
            self.downsample = torch.nn.Sequential(
                conv(channels, width, 1, stride, bias=False),
                torch.nn.BatchNorm2d(width),
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 7, 2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.maxpool = torch.nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = torch.nn.Sequential(TorchBlock(8, 8, 1), TorchBlock(8, 8, 1))
        self.layer2 = torch.nn.Sequential(TorchBlock(8, 16, 2), TorchBlock(16, 16, 1))
        self.fc = torch.nn.Linear(16, 10)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def flax_norm(train):
    return jaxnorm.linen.BatchNorm(
        use_running_average=not train,
        momentum=tools.momentum_from_torch(0.1),
        unbiased=True,
    )


class Block(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        def conv(size, stride=1):
            return nn.Conv(self.width, (size, size), stride, size // 2, use_bias=False)

        y = nn.relu(flax_norm(train)(conv(3, self.stride)(x)))
        y = flax_norm(train)(conv(3)(y))
        if self.stride > 1:
            x = flax_norm(train)(conv(1, self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (7, 7), 2, 3, use_bias=False)(x)
        x = nn.relu(flax_norm(train)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for width, stride in [(8, 1), (8, 1), (16, 2), (16, 1)]:
            x = Block(width, stride)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


def resnet_paths():
    norms, rest = {"bn1": ("BatchNorm_0",)}, {"conv1": ("Conv_0",), "fc": ("Dense_0",)}
    for i in range(4):
        theirs, ours = f"layer{1 + i // 2}.{i % 2}", f"Block_{i}"
        for j in (1, 2):
            norms[f"{theirs}.bn{j}"] = (ours, f"BatchNorm_{j - 1}")
            rest[f"{theirs}.conv{j}"] = (ours, f"Conv_{j - 1}")
    norms["layer2.0.downsample.1"] = ("Block_2", "BatchNorm_2")
    rest["layer2.0.downsample.0"] = ("Block_2", "Conv_2")
    return norms, rest


def test_a_residual_network_with_the_names_of_torchvision(rng):
    theirs, ours = randomize(TorchResNet(), rng), ResNet()
    x, x_torch = batch(rng, (4, 32, 32, 3))
    norms, rest = resnet_paths()
    state_dict = theirs.state_dict()
    found = tools.norms_from_torch(state_dict)
    assert len(jax.tree.leaves(found)) == 4 * len(norms)
    assert "downsample" in found["batch_stats"]["layer2"]["0"]

    variables = ours.init(jax.random.key(0), x, train=True)
    everything = jax.tree.structure(variables)
    variables = tools.insert_variables(
        variables, tools.norms_from_torch(state_dict, norms)
    )
    variables = tools.insert_variables(variables, kernels(state_dict, rest))
    assert jax.tree.structure(variables) == everything

    def close(y, expected):
        expected = expected.detach().numpy()
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=tolerance)

    close(ours.apply(variables, x, train=False), theirs.eval()(x_torch))
    y, updates = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    close(y, theirs.train()(x_torch))
    same_statistics(updates, theirs, norms)
