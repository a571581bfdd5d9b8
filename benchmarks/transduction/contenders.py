"""The networks that compete, and how each is made: of a trained image network, or afresh.

All have one trunk, a narrow ``resnet10t``. The image network has it in CP form (rank C); a dense twin starts from the
kernels that its factors stand for, which is exact. Networks in time keep every frame.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import timm
import torch
from torch import Tensor, nn

from hocp_mm.layers import Motion, complexity, merge_dense_, transduct_
from hocp_mm.models import HOCPTemporalNeck, TimmHOCPBackbone

TRUNK = "resnet10t"
OPTIONS: dict[str, Any] = {"stem_width": 8, "channels": (16, 32, 64, 96)}
CHANNELS = 96
TAPS = 3
MOTION: Motion = {"rank": "x0.5"}
_HIDDEN = 64

Start = Literal["central", "uniform", "fresh"]


class Network(nn.Module):
    """Clips ``[N, 3, T, S, S]`` to outputs of every frame ``[N, T, outputs]``.

    Args:
        backbone: To features ``[N, C, T, H, W]``, alone or the last of a tuple.
        head: From features ``[N, T, C]``, averaged over space.
        neck: Between them.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, neck: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, clip: Tensor) -> Tensor:
        """Run."""
        feats = self.backbone(clip)
        if self.neck is not None:
            feats = self.neck(feats)
        last = feats if isinstance(feats, Tensor) else feats[-1]
        return self.head(last.mean(dim=(3, 4)).transpose(1, 2))


class ConvolutionHead(nn.Module):
    """Residual temporal convolutions before a linear layer; 29 frames, the linear layer alone at the start."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        width = linear.in_features
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, _HIDDEN, 3, padding=dilation, dilation=dilation, padding_mode="replicate"),
                nn.BatchNorm1d(_HIDDEN),
                nn.ReLU(),
                nn.Conv1d(_HIDDEN, width, 3, padding=dilation, dilation=dilation, padding_mode="replicate"),
            )
            for dilation in (1, 2, 4)
        )
        for block in self.blocks:
            last = cast("nn.Sequential", block)[-1]
            nn.init.zeros_(cast("Tensor", last.weight))
            nn.init.zeros_(cast("Tensor", last.bias))
        self.linear = linear

    def forward(self, feats: Tensor) -> Tensor:
        """Map ``[N, T, C]`` to ``[N, T, outputs]``."""
        x = feats.transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return self.linear(x.transpose(1, 2))


class RecurrentHead(nn.Module):
    """A GRU that looks both ways, whose word is added to that of a linear layer; nothing is added at the start."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.gru = nn.GRU(linear.in_features, _HIDDEN, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * _HIDDEN, linear.out_features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, feats: Tensor) -> Tensor:
        """Map ``[N, T, C]`` to ``[N, T, outputs]``."""
        return self.linear(feats) + self.out(self.gru(feats)[0])


class SpaceTime(nn.Module):
    """A timm residual network whose layers are 3-D ones."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, clip: Tensor) -> Tensor:
        """Map ``[N, 3, T, S, S]`` to ``[N, C, T, H, W]``."""
        return cast("Any", self.net).forward_features(clip)


def in_space_time(net: nn.Module, start: Start = "fresh", separate: bool = False) -> nn.Module:
    """Return a 3-D copy of a dense image network; time is never strided.

    Args:
        net: The network.
        start: Of a ``k x k`` kernel, which becomes ``3 x k x k``: the image kernel in the middle, a third of it at
            each tap, or drawn afresh.
        separate: Make two convolutions of it, in space and then in time, with batch norm and ReLU between and as many
            parameters (R(2+1)D); ``start`` must be fresh.

    Returns:
        The copy.

    Raises:
        ValueError: If separate kernels are to start from an image network.
    """
    if separate and start != "fresh":
        raise ValueError(f"in_space_time: separate kernels start fresh, got {start!r}.")
    net = copy.deepcopy(net)
    for name, child in list(net.named_children()):
        setattr(net, name, _lifted(child, start, separate))
    return net


def _lifted(layer: nn.Module, start: Start, separate: bool) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return _lifted_conv(layer, start, separate)
    if isinstance(layer, nn.BatchNorm2d):
        norm = nn.BatchNorm3d(layer.num_features, layer.eps, layer.momentum)
        norm.load_state_dict(layer.state_dict())
        return norm
    if isinstance(layer, nn.MaxPool2d):
        return nn.MaxPool3d(*((1, v, v) if n < 2 else (0, v, v) for n, v in enumerate(_pool(layer))))
    if isinstance(layer, nn.AvgPool2d):
        kernel, stride, padding = _pool(layer)
        sizes = (1, kernel, kernel), (1, stride, stride), (0, padding, padding)
        return nn.AvgPool3d(*sizes, ceil_mode=layer.ceil_mode, count_include_pad=layer.count_include_pad)
    return in_space_time(layer, start, separate)


def _pool(layer: Any) -> tuple[int, int, int]:
    return layer.kernel_size, layer.stride, layer.padding


def _lifted_conv(conv: nn.Conv2d, start: Start, separate: bool) -> nn.Module:
    taps = TAPS if max(conv.kernel_size) > 1 else 1
    pads: Any = conv.padding
    channels, bias = (conv.in_channels, conv.out_channels), conv.bias is not None
    space: dict[str, Any] = {
        "kernel_size": (1, *conv.kernel_size), "stride": (1, *conv.stride), "padding": (0, *pads)
    }  # fmt: skip
    if separate and taps > 1:
        area = conv.kernel_size[0] * conv.kernel_size[1]
        middle = taps * area * channels[0] * channels[1] // (area * channels[0] + taps * channels[1])
        parts = (
            nn.Conv3d(channels[0], middle, **space, bias=False),
            nn.Conv3d(middle, channels[1], (taps, 1, 1), padding=(taps // 2, 0, 0), bias=bias),
        )
        for part in parts:
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        return nn.Sequential(parts[0], nn.BatchNorm3d(middle), nn.ReLU(), parts[1])
    space["kernel_size"], space["padding"] = (taps, *conv.kernel_size), (taps // 2, *pads)
    lifted = nn.Conv3d(*channels, **space, bias=bias)
    with torch.no_grad():
        if start == "fresh":
            nn.init.kaiming_normal_(lifted.weight, mode="fan_out", nonlinearity="relu")
        elif start == "uniform":
            lifted.weight.copy_((conv.weight / taps)[:, :, None].expand_as(lifted.weight))
        else:
            lifted.weight.zero_()[:, :, taps // 2] = conv.weight
        if conv.bias is not None and lifted.bias is not None:
            lifted.bias.copy_(conv.bias)
    return lifted


def image_network(outputs: int, rank: str = "x1") -> Network:
    """Return a fresh image network, which takes clips."""
    backbone = TimmHOCPBackbone(TRUNK, rank=rank, temporal_kernel=1, timm_options=OPTIONS)
    return Network(backbone, nn.Linear(CHANNELS, outputs))


def transducted(
    static: Network,
    motion: Motion | None = MOTION,
    neck: bool = False,
    taps: int = TAPS,
    init: Literal["central", "uniform", "last"] = "central",
    drawn: bool = False,
) -> Network:
    """Return a video network that starts from an image network, but for temporal factors that are ``drawn``."""
    network = copy.deepcopy(static)
    backbone = cast("TimmHOCPBackbone", network.backbone)
    transduct_(backbone.net, taps, init, frame_axis=backbone.frame_axis, motion=motion)
    if drawn:
        _draw_temporal_factors_(backbone)
    if neck:
        network.neck = HOCPTemporalNeck(CHANNELS, hidden_channels=_HIDDEN, rank=_HIDDEN)
    return network


def fresh_hocp(outputs: int, motion: Motion | None, conv_options: Any = None) -> Network:
    """Return the same video network with everything drawn, temporal factors included (columns of norm 1)."""
    backbone = TimmHOCPBackbone(
        TRUNK, temporal_kernel=TAPS, motion=motion, conv_options=conv_options, timm_options=OPTIONS
    )
    _draw_temporal_factors_(backbone)
    return Network(backbone, nn.Linear(CHANNELS, outputs))


@torch.no_grad()
def _draw_temporal_factors_(backbone: nn.Module) -> None:
    for name, taps in backbone.named_parameters():
        if name.endswith("factors.t") and ".motion." not in name:
            taps.normal_().div_(taps.norm(dim=0))


def fresh_dense(outputs: int, separate: bool) -> Network:
    """Return a fresh R3D, or R(2+1)D, of the same widths."""
    net = timm.create_model(TRUNK, pretrained=False, num_classes=0, **OPTIONS)
    return Network(SpaceTime(in_space_time(net, separate=separate)), nn.Linear(CHANNELS, outputs))


def inflated(static: Network, start: Start) -> Network:
    """Return an R3D whose kernels are those of the image network, inflated."""
    net = copy.deepcopy(cast("TimmHOCPBackbone", static.backbone).net)
    merge_dense_(net)
    return Network(SpaceTime(in_space_time(net, start)), copy.deepcopy(static.head))


def with_head(static: Network, head: type[ConvolutionHead] | type[RecurrentHead]) -> Network:
    """Return an image network with a head in time."""
    network = copy.deepcopy(static)
    network.head = head(cast("nn.Linear", network.head))
    return network


def cost(network: Network, clip: Tensor) -> tuple[int, float]:
    """Return the parameters, and the multiplications for one frame of a clip ``[1, 3, T, S, S]``."""
    total = complexity(network, clip).total
    # A GRU multiplies by each of its matrices in each frame; the count of the package knows no GRU.
    recurrent = [gru for gru in network.modules() if isinstance(gru, nn.GRU)]
    more = sum(p.numel() for gru in recurrent for p in gru.parameters() if p.ndim == 2)
    return sum(p.numel() for p in network.parameters()), total.macs / clip.shape[2] + more


Plan = Literal["none", "both", "temporal", "joint", "video", "all"]
"""Which stages a network trains in: the new parts and then everything; one of these alone, in as many steps; or, from
scratch, everything in the steps of the video stages, or of those and of the image stage."""


@dataclass(frozen=True)
class Contender:
    """A way to a video network.

    Attributes:
        make: Called with the image network of the seed, and with the number of outputs where ``plan`` begins afresh.
        plan: Its stages.
        rank: Of the image network.
        lasso: Strength of the lasso on lambda in the joint stage.
        filmed: Training videos, as a multiple of those of the task.
        temporal: Let temporal factors that start as the image network learn faster (`Schedule.temporal`).
        rate: Factor on the learning rate.
    """

    make: Callable[[Network, int], Network]
    plan: Plan = "both"
    rank: str = "x1"
    lasso: float = 0.0
    filmed: int = 1
    temporal: bool = True
    rate: float = 1.0


def _start(**options: Any) -> Callable[[Network, int], Network]:
    return lambda static, outputs: transducted(static, **options)


def _scratch(**options: Any) -> Callable[[Network, int], Network]:
    return lambda static, outputs: fresh_hocp(outputs, **options)


STATIC, AVERAGE, OURS = "static", "static, moving average", "transduced: factors + motion"
MAIN: dict[str, Contender] = {
    STATIC: Contender(lambda static, outputs: static, "none"),
    AVERAGE: Contender(lambda static, outputs: static, "none"),
    "static, convolution head": Contender(lambda static, outputs: with_head(static, ConvolutionHead), "temporal"),
    "static, GRU head": Contender(lambda static, outputs: with_head(static, RecurrentHead), "temporal"),
    "convolution head, trained jointly": Contender(lambda static, outputs: with_head(static, ConvolutionHead)),
    "GRU head, trained jointly": Contender(lambda static, outputs: with_head(static, RecurrentHead)),
    "R3D from scratch": Contender(lambda static, outputs: fresh_dense(outputs, separate=False), "all"),
    "R3D from scratch, quarter of the rate": Contender(
        lambda static, outputs: fresh_dense(outputs, separate=False), "all", rate=0.25
    ),
    "R3D inflated by 1/k": Contender(lambda static, outputs: inflated(static, "uniform"), "joint"),
    "R3D inflated centrally": Contender(lambda static, outputs: inflated(static, "central"), "joint"),
    "R(2+1)D from scratch": Contender(lambda static, outputs: fresh_dense(outputs, separate=True), "all"),
    "HO-CP from scratch, steps of video": Contender(_scratch(motion=None), "video"),
    "HO-CP from scratch": Contender(_scratch(motion=None), "all"),
    "HO-CP with motion from scratch": Contender(_scratch(motion=MOTION), "all"),
    "transduced: factors": Contender(_start(motion=None)),
    "transduced: factors + neck": Contender(_start(motion=None, neck=True)),
    OURS: Contender(_start()),
    "transduced: factors + motion + neck": Contender(_start(neck=True)),
    "factors + motion, temporal stage only": Contender(_start(), "temporal"),
    "factors + motion, joint stage only": Contender(_start(), "joint"),
}
PSI = {"inner_norm_cfg": {"type": "BN"}, "inner_act_cfg": {"type": "ReLU"}}
ABLATION: dict[str, Contender] = {
    "init uniform": Contender(_start(init="uniform")),
    "init last (causal)": Contender(_start(init="last")),
    "rank C/2": Contender(_start(), rank="x0.5"),
    "rank 3C": Contender(_start(), rank="x3"),
    "temporal kernel 5": Contender(_start(taps=5)),
    "motion rank C/8": Contender(_start(motion={"rank": "x0.125"})),
    "motion rank C": Contender(_start(motion={"rank": "x1"})),
    "motion by relu": Contender(_start(motion={**MOTION, "rectifier": "relu"})),
    "from scratch, with Psi": Contender(_scratch(motion=None, conv_options=PSI), "all"),
    "from scratch, with Psi and motion": Contender(_scratch(motion=MOTION, conv_options=PSI), "all"),
    "temporal factors as fast as all": Contender(_start(), temporal=False),
    "temporal factors drawn": Contender(_start(drawn=True), temporal=False),
    "lasso": Contender(_start(), lasso=1.0),
    "three times the videos": Contender(_start(), filmed=3),
    "from scratch, three times the videos": Contender(_scratch(motion=None), "all", filmed=3),
    "from scratch, with motion, three times the videos": Contender(_scratch(motion=MOTION), "all", filmed=3),
}
FROM_SCRATCH = ("video", "all")
