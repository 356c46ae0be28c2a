"""Networks that weights are exchanged with, transcribed where they are in no package, and how they are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernize import Design, build, export_weights, load_weights

Module = TypeVar("Module", bound=nn.Module)


def randomise(module: Module) -> Module:
    """The module with no weight, bias, scale or running statistic left at a value that could hide a mistake."""
    state = module.state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            tensor.random_(1, 1000)
        elif tensor.ndim in (2, 4) and not key.endswith(("gamma", "beta")):
            tensor.normal_(std=tensor[0].numel() ** -0.5)
        elif key.endswith(("bias", "beta", "running_mean")):
            tensor.normal_(std=0.2)
        else:  # norms, running variances and layer scales
            tensor.uniform_(0.3, 0.9)
    return module.eval()


def made(make: Callable[[], Module]) -> Module:
    """The network that `make` builds, without the time to draw its weights: they are whatever lay in memory."""
    with torch.device("meta"):
        network = make()
    return network.to_empty(device="cpu")


def assert_same_logits(network: nn.Module, peer: nn.Module, size: int = 64) -> None:
    images = torch.randn(2, 3, size, size) + torch.randn(2, 3, 1, 1)
    with torch.inference_mode():
        ours, theirs = network.eval()(images), peer(images)
    assert theirs.std() > 0.1 and (theirs[0] - theirs[1]).abs().max() > 0.1  # else any network would pass
    assert (ours - theirs).abs().max() < 1e-4


def assert_same_state(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def assert_peers(
    design: str | Design, make: Callable[[], nn.Module], layout: str, classes: int = 5, size: int = 64
) -> None:
    """Loading gives the peer's logits and name, exporting gives its state dict back."""
    network, peer = made(lambda: build(design, num_classes=classes)), randomise(made(make))
    assert load_weights(network, peer.state_dict()) == layout
    assert_same_logits(network, peer, size)
    exported = export_weights(network, layout)
    assert_same_state(exported, peer.state_dict())
    peer.load_state_dict(exported, strict=True)


class OfficialNorm(nn.Module):
    """LayerNorm of the official code, over the last or, in N×C×H×W, the first dimension."""

    def __init__(self, channels: int, first: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        if not self.first:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-6)
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class OfficialResponseNorm(nn.Module):
    """Global response normalization of the official ConvNeXt V2, in N×H×W×C."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        norms = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        relative = norms / (norms.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * relative) + self.beta + x


class OfficialBlock(nn.Module):
    """Depthwise convolution, norm, two linear layers about a GELU, and the scale gamma unless it is off."""

    def __init__(self, dim: int, scaled: bool):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = OfficialNorm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(F.gelu(self.pwconv1(y)))
        y = y if self.gamma is None else self.gamma * y
        return x + y.permute(0, 3, 1, 2)


class OfficialV2Block(nn.Module):
    """Depthwise convolution, norm, and two linear layers about a GELU and global response normalization."""

    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = OfficialNorm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = OfficialResponseNorm(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))
        return x + y.permute(0, 3, 1, 2)


class Official(nn.Module):
    """facebookresearch/ConvNeXt's network, by its attributes' names."""

    def __init__(self, depths: tuple[int, ...], width: int, scaled: bool = True, classes: int = 5):
        super().__init__()
        dims = [width * 2**stage for stage in range(len(depths))]
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, width, 4, 4), OfficialNorm(width, first=True))]
        )
        for dim in dims[:-1]:
            self.downsample_layers.append(
                nn.Sequential(OfficialNorm(dim, first=True), nn.Conv2d(dim, 2 * dim, 2, stride=2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*(self.block(dim, scaled) for _ in range(depth)))
            for dim, depth in zip(dims, depths, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], classes)

    def block(self, dim: int, scaled: bool) -> nn.Module:
        return OfficialBlock(dim, scaled)

    def forward(self, x: Tensor) -> Tensor:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean((2, 3))))


class OfficialV2(Official):
    """facebookresearch/ConvNeXt-V2's network."""

    def block(self, dim: int, scaled: bool) -> nn.Module:
        return OfficialV2Block(dim)


class OfficialIsotropic(nn.Module):
    """The isotropic network of the official code: a patch embedding, blocks of one width, no norm after the stem."""

    def __init__(self, depth: int, dim: int, scaled: bool = False, classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 16, stride=16)
        self.blocks = nn.Sequential(*(OfficialBlock(dim, scaled) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean((2, 3))))
