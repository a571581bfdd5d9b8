"""Put CP kernels and temporal factors into a timm network: which layers get what."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import timm
from timm.layers.cond_conv2d import CondConv2d
from torch import Tensor, nn

from hocp_mm.functional import Init
from hocp_mm.functional.transduct import temporal_taps
from hocp_mm.layers import (
    FrameAxis,
    HOCPConv2d,
    Motion,
    MotionComponents,
    add_motion_,
    factorize_,
    name_matcher,
    transduct_,
)
from hocp_mm.layers.options import Options
from hocp_mm.layers.reparametrized import refresh_
from hocp_mm.layers.selection import DENSE, Patterns, RankRule, is_factorizable, sees_time
from hocp_mm.layers.temporal import present_tap
from hocp_mm.layers.tracing import fx_leaf


class Conversion(NamedTuple):
    """What became of the layers of a network.

    Attributes:
        factorized: Names of those with a CP kernel.
        transducted: Names of those with a temporal factor.
    """

    factorized: list[str]
    transducted: list[str]


def layers_to_factorize(
    net: nn.Module, name: str, rank: RankRule, factorize: Patterns | None
) -> tuple[Patterns, list[str]]:
    """Choose the layers that get a CP kernel.

    Args:
        net: The dense network.
        name: Of the network in timm.
        rank: A mapping from full names of layers alone chooses just these.
        factorize: Patterns; None takes the dense ``k x k`` layers behind the first one.

    Returns:
        Patterns, none for no layer; and the names that None would take.

    Raises:
        ValueError: If ``factorize`` is None and no convolution of the network could see time.
    """
    first = getattr(timm.get_pretrained_cfg(name), "first_conv", None) or ()
    firsts = {first} if isinstance(first, str) else set(first)
    # The first layer stays, whatever its channels: expansion 1 would leave it as few filters as the input has.
    dense = [n for n, module in net.named_modules() if is_factorizable(module) and n not in firsts]
    if factorize is not None:
        return factorize, dense
    if not dense and not any(sees_time(module) or _is_conditional(module) for module in net.modules()):
        raise ValueError(
            f"TimmHOCPBackbone: the network must have a k x k convolution behind its first layer, got '{name}' "
            "(a transformer or MLP without convolutions?)."
        )
    convolutions = {n for n, module in net.named_modules() if isinstance(module, DENSE)}
    chosen = list(rank) if isinstance(rank, Mapping) and rank and convolutions.issuperset(rank) else dense
    return exactly(chosen), dense


def exactly(names: list[str]) -> list[str]:
    """Return patterns that match these names alone."""
    return [f"^{re.escape(name)}$" for name in names]


def convert_(
    net: nn.Module,
    rank: RankRule,
    factorize: Patterns,
    size: int,
    init: Init,
    temporal_layers: Patterns | None,
    frame_axis: FrameAxis,
    conv_options: Options,
    motion: Motion | None = None,
) -> Conversion:
    """Convert a network; fresh kernels are drawn.

    Args:
        net: The network; changed.
        rank: As in :func:`hocp_mm.layers.factorize_`.
        factorize: Patterns on layer names; none for no layer.
        size: Temporal taps; 1 for an image network.
        init: Values of the temporal factors.
        temporal_layers: Patterns on layer names; None takes every HO-CP layer, every grouped ``k x k`` one and every
            conditional ``k x k`` one.
        frame_axis: Where the layers read the number of frames.
        conv_options: Of the HO-CP layers.
        motion: Of the motion components; None for none.

    Returns:
        What became of the layers.

    Raises:
        ValueError: If ``temporal_layers`` matches nothing, or ranks, patterns, taps or motion do not fit.
    """
    factorized = factorize_(net, rank, layers=factorize, fit=False, **conv_options) if list(factorize) else []
    temporal_taps(size, 1, init)  # refuses what does not fit, for image networks, too
    if temporal_layers is not None and not any(map(name_matcher(temporal_layers), dict(net.named_modules()))):
        raise ValueError(f"TimmHOCPBackbone: temporal_layers must match a layer, got {temporal_layers!r}.")
    if size == 1 and motion is not None:
        raise ValueError(f"TimmHOCPBackbone: motion needs a temporal_kernel of 2 or more, got 1 (motion={motion!r}).")
    if size == 1:
        return Conversion(factorized, [])
    transducted = set(_transduct_conditional_(net, size, init, temporal_layers, frame_axis))
    wanted = sees_time if temporal_layers is None else None
    matches = name_matcher(temporal_layers or ())
    if not transducted or any(
        isinstance(module, (nn.Conv2d, HOCPConv2d)) and (wanted(module) if wanted else matches(name))
        for name, module in net.named_modules()
    ):
        transducted |= set(transduct_(net, size, init, layers=temporal_layers, frame_axis=frame_axis))
    if motion is not None:
        add_motion_(net, **motion)
    return Conversion(factorized, [name for name, _ in net.named_modules() if name in transducted])


class FrameFoldedCondConv2d(CondConv2d):
    """A convolution whose kernel every frame mixes for itself (CondConv), followed by a temporal factor.

    Parameters as before, and ``factors.t`` ``[size, out]``.
    """

    before: int
    frame_axis: FrameAxis
    factors: nn.ParameterDict
    motion: MotionComponents | None

    @fx_leaf
    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """Convolve ``[N*T, in, H, W]`` with ``[N*T, experts]`` to ``[N*T, out, H', W']``."""
        return self.frame_axis.along_time(super().forward(x, routing_weights), self._along_time)

    def _along_time(self, z: Tensor) -> Tensor:
        refresh_(self.factors)
        return self.frame_axis.move(self.motion, self.frame_axis.convolve(self, z, self.factors["t"], self.before))


def _is_conditional(module: nn.Module) -> bool:
    return isinstance(module, CondConv2d) and max(cast("tuple[int, int]", module.kernel_size)) > 1


def _transduct_conditional_(
    net: nn.Module, size: int, init: Init, layers: Patterns | None, frame_axis: FrameAxis
) -> list[str]:
    """Give conditional convolutions a temporal factor; they stay the same objects."""
    matches = None if layers is None else name_matcher(layers)
    names = []
    for name, module in net.named_modules():
        if not (_is_conditional(module) if matches is None else isinstance(module, CondConv2d) and matches(name)):
            continue
        conv: Any = module
        if conv.bias is not None:  # it would be convolved along time, too
            raise NotImplementedError(f"TimmHOCPBackbone: a CondConv2d that sees time must have no bias, got '{name}'.")
        conv.__class__ = FrameFoldedCondConv2d
        taps = temporal_taps(size, conv.out_channels, init, dtype=conv.weight.dtype, device=conv.weight.device)
        conv.factors = nn.ParameterDict({"t": nn.Parameter(taps)})
        conv.before, conv.frame_axis, conv.motion = present_tap(size, init), frame_axis, None
        names.append(name)
    return names
