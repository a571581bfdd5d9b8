"""The networks that a check of transduction compares: video, causal, image and dense, all with the same weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from torch import Tensor, nn

from hocp_mm.checkpoints import DecompositionCache, LoadReport, check_timm_name
from hocp_mm.functional import CPKernel, RankLike
from hocp_mm.functional.cp import component_norms, dense_kernel, mode_names
from hocp_mm.functional.decompose import Decomposition
from hocp_mm.functional.transduct import Init
from hocp_mm.models import TimmHOCPBackbone
from hocp_mm.models.backbones.calibration import StagedNetwork, fill_dense_
from hocp_mm.models.backbones.timm_network import Stages, choose_stages, create_network, reparameterize_
from hocp_mm.models.backbones.timm_weights import read_image_weights

FULL = "full"
"""The rank at which a kernel has an exact CP form that is known without a fit."""
MOTION: Mapping[str, Any] = {"rank": "x0.125"}
"""Motion components of the networks with temporal factors: whatever these promise holds with them, too."""
_NEUTRAL = 1e-2  # parameters below it are where timm starts branches and biases that are to do nothing at first


class Twins(NamedTuple):
    """Networks with the same weights, in evaluation mode.

    Attributes:
        video: With temporal factors and motion components; from clips to all stages.
        causal: The same with ``temporal_init='last'``.
        image: The same without temporal factors.
        dense: timm's own network, from images to all stages; None where the weights are in CP form.
        report: How the weights came into ``video``.
    """

    video: TimmHOCPBackbone
    causal: TimmHOCPBackbone
    image: TimmHOCPBackbone
    dense: nn.Module | None
    report: LoadReport

    def double(self) -> "Twins":
        """Change all of them to float64, where rounding neither hides a fault nor looks like one."""
        for network in (self.video, self.causal, self.image, self.dense):
            if network is not None:
                network.double()
        return self


def build_twins(
    name: str,
    checkpoint: str,
    *,
    rank: RankLike = "x1",
    temporal_kernel: int = 3,
    temporal_init: Init = "central",
    in_chans: int = 3,
    seed: int = 0,
    reparameterize: bool = False,
    timm_options: Mapping[str, Any] | None = None,
) -> Twins:
    """Build the networks.

    Args:
        name: Name in timm.
        checkpoint: A file with the weights of that network, dense or CP.
        rank: As in :class:`hocp_mm.models.TimmHOCPBackbone`, or :data:`FULL`.
        temporal_kernel: Taps in time.
        temporal_init: Of the video network.
        in_chans: Input channels.
        seed: Of decompositions.
        reparameterize: Fuse the branches of re-parameterisable blocks first.
        timm_options: More keyword arguments for ``timm.create_model``.

    Returns:
        The networks.
    """
    dense, stages = _dense_network(name, in_chans, timm_options)
    options: dict[str, Any] = {
        "in_chans": in_chans,
        "seed": seed,
        "reparameterize": reparameterize,
        "timm_options": timm_options,
        "out_indices": stages.indices,
    }
    time = {"temporal_kernel": temporal_kernel, "temporal_init": temporal_init}
    if temporal_kernel > 1:
        options["motion"] = MOTION
    video, report = video_network(name, checkpoint, rank, **time, **options)
    # Ranks that followed the weights are numbers now.
    options["rank"] = {layer: cast("Any", video.net.get_submodule(layer)).rank for layer in video.factorized} or "x1"
    causal = TimmHOCPBackbone(name, temporal_kernel=temporal_kernel, temporal_init="last", **options)
    image = TimmHOCPBackbone(name, temporal_kernel=1, **{**options, "motion": None})
    names = image.net.state_dict().keys()
    spatial = {name: tensor for name, tensor in video.net.state_dict().items() if name in names}
    image.net.load_state_dict(spatial)
    # Not load_state_dict alone, which would bring the video network's own temporal factors along.
    causal.net.load_state_dict({**causal.net.state_dict(), **spatial})
    weights = read_image_weights(checkpoint, name, in_chans, timm_options or {}, fused=False)
    return Twins(video.eval(), causal.eval(), image.eval(), _filled(dense, stages, weights.state), report)


def own_size(name: str) -> int:
    """Return the height of the images that a network of timm was made for, pixels.

    Raises:
        UnknownModelError: If timm does not know ``name``.
    """
    check_timm_name(name)
    config = timm.get_pretrained_cfg(name)
    return 224 if config is None else config.input_size[-1]


def video_network(name: str, checkpoint: str, rank: RankLike, **options: Any) -> tuple[TimmHOCPBackbone, LoadReport]:
    """Build a backbone and fill it from a file.

    Args:
        name: Name in timm.
        checkpoint: A file with weights of that network; dense ones for :data:`FULL`.
        rank: As in :class:`hocp_mm.models.TimmHOCPBackbone`, or :data:`FULL`.
        options: More keyword arguments of the backbone.

    Returns:
        The backbone, and how the weights came into it.
    """
    if rank != FULL:
        video = TimmHOCPBackbone(name, rank=rank, checkpoint=checkpoint, **options)
        return video, cast("LoadReport", video.load_report)
    small: Any = TimmHOCPBackbone(name, rank=1, **options)
    layers: dict[str, Any] = {layer: small.net.get_submodule(layer) for layer in small.factorized}
    ranks = {layer: full_rank(conv.in_channels, conv.out_channels, conv.kernel_size)
             for layer, conv in layers.items()}  # fmt: skip
    video = TimmHOCPBackbone(name, rank=ranks or 1, **options)
    return video, video.load_image_weights(checkpoint, cache=cast("DecompositionCache", _ExactFits()))


def _image_network(name: str, in_chans: int, timm_options: Mapping[str, Any] | None) -> nn.Module:
    check_timm_name(name)
    return timm.create_model(name, in_chans=in_chans, **(timm_options or {}))


def _dense_network(name: str, in_chans: int, timm_options: Mapping[str, Any] | None) -> tuple[nn.Module, Stages]:
    """Build timm's own network up to its last stage: what lies behind, a file need not have."""
    net, _ = create_network(name, in_chans, timm_options)
    count = len(cast("Any", net).feature_info)
    return net, choose_stages(net, name, range(count), head=False)[0]


def _filled(net: nn.Module, stages: Stages, state: Mapping[str, Tensor]) -> nn.Module | None:
    """Put weights into timm's own network, unless they are in CP form."""
    # It is fused only if the weights are: that changes nothing but rounding.
    for fused in (False, True):
        if fused:
            reparameterize_(net)
        if fill_dense_(net, state):
            return StagedNetwork(net, stages).eval()
    return None


def full_rank(in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> int:
    """Return the rank of :func:`exact_kernel`: taps times the smaller number of channels."""
    return math.prod(kernel_size) * min(in_channels, out_channels)


def exact_kernel(kernel: Tensor, groups: int = 1) -> CPKernel:
    """Write a dense kernel in CP form without loss: a component per tap and channel, on the side with fewer channels.

    Args:
        kernel: ``[out, in / groups, *kernel_size]``.
        groups: Groups of the convolution.

    Returns:
        A kernel of :func:`full_rank` components.
    """
    sizes = kernel.shape[2:]
    taps, eye = math.prod(sizes), {"dtype": kernel.dtype, "device": kernel.device}
    parts: list[list[Tensor]] = []
    for block in kernel.detach().flatten(2).chunk(groups):  # [out, in, taps]
        out, in_ = block.shape[:2]
        if out <= in_:
            channels = [torch.eye(out, **eye).repeat(1, taps), block.permute(1, 2, 0).flatten(1)]
        else:
            channels = [block.permute(0, 2, 1).flatten(1), torch.eye(in_, **eye).repeat(1, taps)]
        positions = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(taps, -1)
        deltas = [nn.functional.one_hot(positions[:, mode], size).T.to(**eye) for mode, size in enumerate(sizes)]
        parts.append([*channels, *(delta.repeat_interleave(min(out, in_), dim=1) for delta in deltas)])
    factors = [torch.cat(mode, dim=1) for mode in zip(*parts, strict=True)]
    named = dict(zip(mode_names(len(sizes)), factors, strict=True))
    return CPKernel(torch.ones(factors[0].shape[1], **eye), named, groups)


class _ExactFits:
    """Stands in for a cache of fits where kernels have their full rank."""

    def decompose(self, dense: Tensor, rank: int, *, groups: int = 1, seed: int = 0) -> Decomposition:
        """Return the exact form; ``rank`` is :func:`full_rank`, ``seed`` decides nothing."""
        kernel = exact_kernel(dense, groups)
        error = float((dense_kernel(kernel) - dense).norm() / dense.norm())
        energy = float(component_norms(kernel).square().sum() / dense.square().sum())
        return Decomposition(kernel, error, energy, error)


@torch.no_grad()
def save_random_weights(
    path: Path,
    name: str,
    images: Tensor,
    *,
    in_chans: int = 3,
    seed: int = 0,
    timm_options: Mapping[str, Any] | None = None,
) -> None:
    """Save weights of a timm network as if it had lived: no layer at its neutral start, statistics of real data.

    A fresh network hides faults: branches scaled by 0 or 1e-6, norms whose statistics are 0 and 1.

    Args:
        path: File to write (``.pth``).
        name: Name in timm.
        images: ``[B, C, H, W]``, at least 2 images, for the statistics of batch norms.
        in_chans: Input channels.
        seed: Of the weights; the global random state is not touched.
        timm_options: More keyword arguments for ``timm.create_model``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _image_network(name, in_chans, timm_options)
        for parameter in net.parameters():
            if parameter.abs().max() < _NEUTRAL:
                parameter.copy_(0.1 * torch.randn_like(parameter))
            elif parameter.ndim < 2:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3))
        # Statistics of these images in every batch norm; all other layers as in use (no dropout).
        net.eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
                module.momentum = 1.0
        net(images)
    torch.save(net.state_dict(), path)
