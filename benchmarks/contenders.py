"""The layers and networks that are compared."""

import copy
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hocp_mm.layers import HOCPConv3d
from hocp_mm.layers.surgery import Motion, replace_
from hocp_mm.models import TimmHOCPBackbone


class Conv2Plus1d(nn.Sequential):
    """R(2+1)D's pair (Tran et al., CVPR 2018): as many parameters as the dense 3x3x3 kernel, norm and ReLU between."""

    def __init__(self, channels: int) -> None:
        middle = 27 * channels * channels // (9 * channels + 3 * channels)
        super().__init__(
            nn.Conv3d(channels, middle, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, channels, (3, 1, 1), padding=(1, 0, 0), bias=False),
        )


class EachFrame(nn.Module):
    """A 2-D module on each frame of a clip, in ``channels_last``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)

    def forward(self, clip: Tensor) -> Tensor:
        """Run ``[N, C, T, H, W]`` as N*T images."""
        return self.module(clip.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last))


def tltorch_layer(channels: int, rank: int, implementation: str) -> nn.Module:
    """Make tltorch's CP convolution, initialised (its constructor leaves that out)."""
    from tltorch import FactorizedConv

    layer = FactorizedConv(
        channels, channels, 3, order=3, padding=1, rank=rank, factorization="cp", implementation=implementation
    )
    layer.reset_parameters()
    return layer


def cp_layer(channels: int, rank: int, implementation: str) -> HOCPConv3d:
    """Make our layer in one form."""
    return HOCPConv3d(channels, channels, 3, padding=1, rank=rank, implementation=implementation)


class DenseVideo(nn.Module):
    """A timm ResNet with every k x k convolution, the stem's too, made 3 x k x k: R3D at temporal stride 1."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network: Any = inflate(timm.create_model(name, pretrained=False, num_classes=0, global_pool=""))

    def forward(self, clip: Tensor) -> Tensor:
        """Return the last features, ``[N, C, T, H', W']``."""
        return self.network.forward_features(clip)


def inflate(network: nn.Module) -> nn.Module:
    """Replace the 2-D convolutions, norms and pools of a ResNet by their 3-D kin; fresh weights."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        new: nn.Module | None = None
        if isinstance(module, nn.Conv2d):
            taps, stride = module.kernel_size[0], module.stride[0]
            time_taps = 3 if taps > 1 else 1
            new = nn.Conv3d(
                module.in_channels, module.out_channels, (time_taps, taps, taps), (1, stride, stride),
                (time_taps // 2, taps // 2, taps // 2), bias=module.bias is not None,
            )  # fmt: skip
        elif isinstance(module, nn.BatchNorm2d):
            new = nn.BatchNorm3d(module.num_features)
        elif isinstance(module, nn.MaxPool2d):
            new = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        if new is not None:
            replace_(network, name, new)
    return network


def parent(name: str) -> nn.Module:
    """Make the dense 2-D network on each frame."""
    network = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    return EachFrame(network)


def ours(name: str, rank: str, motion: Motion | None = None) -> nn.Module:
    """Make the 3-D HO-CP network."""
    return _Last(TimmHOCPBackbone(name, rank=rank, temporal_kernel=3, motion=motion, out_indices=(-1,)))


class _Last(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, clip: Tensor) -> Tensor:
        return self.backbone(clip)[-1]
