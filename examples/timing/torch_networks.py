"""The networks of `models/` in PyTorch, with its normalizers, channels last."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from compilers.programs import PROGRAMS
from torch import nn
from torch.nn import functional

Norm = Callable[[int], nn.Module]


class ConvolutionChain(nn.Sequential):
    """The same as `models.convolutions.ConvolutionChain`."""

    def __init__(self, norm: Norm, width: int, blocks: int = 4) -> None:
        """Creates the layers."""
        layers: list[nn.Module] = []
        for _ in range(blocks):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [conv, norm(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Bottleneck(nn.Module):
    """The same as `models.resnet.Bottleneck`."""

    def __init__(self, norm: Norm, features: int, width: int, stride: int) -> None:
        """Creates the layers."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, width, 1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            norm(4 * width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or features != 4 * width:
            conv = nn.Conv2d(features, 4 * width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, norm(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the residual branch and the shortcut."""
        return functional.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Sequential):
    """The same as `models.resnet.ResNet50`."""

    def __init__(self, norm: Norm, features: int) -> None:
        """Creates the layers."""
        stem = nn.Conv2d(features, 64, 7, 2, padding=3, bias=False)
        layers: list[nn.Module] = [stem, norm(64), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(3, 2, padding=1))
        features = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                width, stride = 64 * 2**stage, 2 if stage > 0 and block == 0 else 1
                layers.append(Bottleneck(norm, features, width, stride))
                features = 4 * width
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 1000)
        super().__init__(*layers, *head)


class PreNormMLP(nn.Module):
    """The same as `models.transformer.PreNormMLP`."""

    def __init__(self, norm: Norm, width: int, blocks: int = 2) -> None:
        """Creates the layers."""
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                norm(width),
                nn.Linear(width, 2 * width, bias=False),
                nn.GELU(approximate="tanh"),
                nn.Linear(2 * width, width, bias=False),
            )
            for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds each block."""
        for block in self.blocks:
            x = x + block(x)
        return x


class ResidualBlock(nn.Module):
    """The same as `models.unet.ResidualBlock`."""

    def __init__(self, norm: Norm, features: int, width: int) -> None:
        """Creates the layers."""
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (features, width):
            conv = nn.Conv2d(inputs, width, 3, padding=1)
            layers += [norm(inputs), nn.SiLU(), conv]
        self.body = nn.Sequential(*layers)
        same = features == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(features, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the residual branch and the shortcut."""
        return self.body(x) + self.shortcut(x)


class UNet(nn.Module):
    """The same as `models.unet.UNet`."""

    def __init__(self, norm: Norm, width: int) -> None:
        """Creates the layers."""
        super().__init__()
        self.first = ResidualBlock(norm, width, width)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, padding=1)
        self.middle = ResidualBlock(norm, 2 * width, 2 * width)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = ResidualBlock(norm, 2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the lower level and adds the skip connection."""
        x = self.first(x)
        y = functional.interpolate(self.middle(self.down(x)), size=x.shape[2:])
        return self.last(torch.cat([x, self.up(y)], dim=1))


def _alone(norm: Norm, width: int) -> nn.Module:
    return norm(width)


_LAYER_NORM = functools.partial(nn.LayerNorm, eps=1e-6)
_RMS_NORM = functools.partial(nn.RMSNorm, eps=1e-6)
_GROUP_NORM = functools.partial(nn.GroupNorm, 32)
NETWORKS: dict[str, tuple[Callable[[Norm, int], nn.Module], Norm]] = {
    "batch": (_alone, nn.BatchNorm2d),
    "layer": (_alone, _LAYER_NORM),
    "rms": (_alone, _RMS_NORM),
    "group": (_alone, _GROUP_NORM),
    "instance": (_alone, functools.partial(nn.InstanceNorm2d, affine=True)),
    "chain": (ConvolutionChain, nn.BatchNorm2d),
    "resnet50": (ResNet50, nn.BatchNorm2d),
    "transformer-layer": (PreNormMLP, _LAYER_NORM),
    "transformer-rms": (PreNormMLP, _RMS_NORM),
    "unet": (UNet, _GROUP_NORM),
}


def make_network(name: str, width: int) -> nn.Module:
    """Returns the network of a program, for inputs of `width` features."""
    network, norm = NETWORKS[name]
    return network(norm, width)


class _Queued:
    """A queued PyTorch step, with the method that `jax.block_until_ready` calls."""

    def block_until_ready(self) -> "_Queued":
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self


def make_torch_step(
    name: str, dtype: str, shape: tuple[int, ...], device: str, *, compiled: bool
) -> tuple[Callable[[], Any], Callable[[], int | None]]:
    """Returns a training step, and a function that returns its peak memory.

    Args:
      name: a name in `NETWORKS`.
      dtype: dtype of activations and parameters; float32 in batch norm.
      shape: shape of the input, channels last.
      device: a PyTorch device.
      compiled: whether to use `torch.compile`.
    """
    program, kind = PROGRAMS[name], getattr(torch, dtype)
    network = make_network(name, shape[-1]).to(device, kind)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    x = torch.randn(shape, device=device, dtype=kind)
    if len(shape) == 4:
        x = x.permute(0, 3, 1, 2)  # does not copy
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    forward = torch.compile(network) if compiled else network
    labels = torch.zeros(shape[0], device=device, dtype=torch.long)
    cotangent = torch.randn_like(x)
    x.requires_grad_(not program.learns)

    def run() -> _Queued:
        optimizer.zero_grad()
        x.grad = None
        if program.learns:
            functional.cross_entropy(forward(x).float(), labels).backward()
            optimizer.step()
        else:
            forward(x).backward(cotangent)
        return _Queued()

    def memory() -> int | None:
        if device != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats()
        run().block_until_ready()
        return torch.cuda.max_memory_allocated()

    return run, memory
