r"""What a convolution costs: parameters, multiply-accumulates, activation bytes; formulas only, nothing runs.

With C input and T output channels in g groups, taps K_j, R components, P input and Q output positions::

    dense       parameters C/g T prod(K_j)                  MACs  C/g T prod(K_j) Q
    CP          parameters R (C/g + T/g + sum(K_j) + 1)     MACs  R C/g P  +  depthwise  +  R T/g Q
    motion      parameters M (2 T + K_t)                    MACs  M (2 T + K_t) Q

for M motion components (:mod:`hocp_mm.functional.motion`); + T for a bias, which costs no MAC. The depthwise part
depends on the form: ``R prod(K_j) Q`` with merged taps, or ``R K_j`` times the positions left after each single pass,
strided ones first. Kossaifi et al., CVPR 2020 (arXiv 1906.06196). Taps on padding count, as in every published figure;
the products of factors that a CP form computes once per call (merged taps, a rebuilt kernel) do not depend on the data
and do not count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch

from hocp_mm.functional.choice import IMPLEMENTATIONS, cheapest
from hocp_mm.functional.cp import CPKernel, mode_names
from hocp_mm.functional.cp_conv import Implementation
from hocp_mm.functional.padding import Ints, Pads, expand_ints, resolve_padding
from hocp_mm.functional.rank import RankLike, resolve_rank

CostForm = Implementation | Literal["frame_folded"]
"""How a CP kernel runs: a word of ``cp_conv``, or ``'frame_folded'`` as in ``cp_conv_folded``."""

_FORMS = (*IMPLEMENTATIONS, "frame_folded")


@dataclass(frozen=True)
class Cost:
    """What a layer costs in one forward pass; costs of several layers add up with ``+``.

    Attributes:
        parameters: Numbers to learn.
        macs: Multiply-accumulates; one is two FLOPs.
        output_bytes: The result.
        inner_bytes: Everything between input and result that is written to memory, summed: the activations with rank
            channels of a CP form.
        saved_bytes: What plain autograd keeps of the data for the backward pass: the input and the inner activations.
    """

    parameters: int = 0
    macs: int = 0
    output_bytes: int = 0
    inner_bytes: int = 0
    saved_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Add field by field; start a ``sum`` with ``Cost()``."""
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations that a forward pass writes: result and what lies between."""
        return self.output_bytes + self.inner_bytes


def conv_cost(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    sizes: Sequence[int],
    *,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    bias: bool = False,
    rank: RankLike | None = None,
    implementation: CostForm = "auto",
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    output_sizes: Sequence[int] | None = None,
) -> Cost:
    """Count what a convolution costs, dense or with a CP kernel.

    Padding is taken to cost no memory, as with ``padding_mode='zeros'`` and equal amounts before and after.

    Args:
        in_channels: C, over all groups.
        out_channels: T, over all groups.
        kernel_size: Taps of each convolved mode.
        sizes: Sizes of the input along the convolved modes.
        stride: As in ``nn.ConvNd``.
        padding: As in ``nn.ConvNd``.
        dilation: As in ``nn.ConvNd``.
        groups: As in ``nn.ConvNd``.
        bias: Whether there is one.
        rank: Components (see :func:`hocp_mm.functional.resolve_rank`); None for a dense kernel.
        implementation: How a CP kernel runs. ``'auto'`` counts as ``'mobilenet'`` or ``'reconstructed'``, whichever
            multiplies less (``cp_conv`` takes the fastest, which depends on the machine); ``'reconstructed'`` runs as
            the dense convolution does; ``'frame_folded'`` merges all modes but the first, which follows; ``'fused'``
            computes the same and writes no inner activation. Of no meaning without ``rank``.
        batch: Samples.
        dtype: Of the activations.
        output_sizes: Sizes of the result, for a layer that pads in a way of its own; stride, padding and dilation
            then only tell the order of the passes.

    Returns:
        The cost.

    Raises:
        ValueError: If lengths, words, groups or rank do not fit, or the kernel exceeds the padded input.

    Example:
        >>> conv_cost(64, 64, (3, 3), (56, 56), padding=1).macs
        115605504
        >>> cost = conv_cost(64, 64, (3, 3), (56, 56), padding=1, rank="x1")
        >>> cost.parameters, cost.macs, cost.inner_bytes
        (8640, 27496448, 1605632)
    """
    taps = tuple(kernel_size)
    order = len(taps)
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"conv_cost: groups must divide in_channels and out_channels, got groups={groups} for "
            f"{in_channels} -> {out_channels}."
        )
    if implementation not in _FORMS:
        raise ValueError(f"conv_cost: implementation must be one of {_FORMS}, got {implementation!r}.")
    if implementation == "frame_folded" and order != 3:
        raise ValueError(f"conv_cost: implementation 'frame_folded' needs 3 convolved modes, got {order}.")
    before = tuple(sizes)
    for name, values in (("sizes", before), ("output_sizes", output_sizes)):
        if values is not None and len(values) != order:
            raise ValueError(f"conv_cost: {name} must be {order} ints as the kernel {taps}, got {tuple(values)}.")
    strides, dilations = expand_ints(stride, order, "stride"), expand_ints(dilation, order, "dilation")
    if output_sizes is None:
        pads = resolve_padding(padding, taps, strides, dilations, before)
        after = _output_sizes(before, taps, strides, pads, dilations)
    else:
        after = tuple(output_sizes)
    in_group, out_group, unit = in_channels // groups, out_channels // groups, batch * dtype.itemsize
    output_bytes, input_bytes = unit * out_channels * prod(after), unit * in_channels * prod(before)
    extra = out_channels if bias else 0

    dense_parameters = out_channels * in_group * prod(taps)
    dense_macs = dense_parameters * batch * prod(after)
    if rank is None:
        return Cost(dense_parameters + extra, dense_macs, output_bytes, 0, input_bytes)
    components = resolve_rank(rank, in_channels, out_channels, taps, groups)
    parameters = components * (in_group + out_group + sum(taps) + 1) + extra
    if implementation == "auto":
        implementation = _automatic(in_group, out_group, taps, components, groups)
    if implementation == "reconstructed":
        return Cost(parameters, dense_macs, output_bytes, 0, input_bytes)

    present = list(before)
    macs, inner = components * in_group * prod(present), components * prod(present)
    for axes in _passes(implementation, strides):
        for axis in axes:
            present[axis] = after[axis]
        macs += components * prod(taps[axis] for axis in axes) * prod(present)
        inner += components * prod(present)
    macs += components * out_group * prod(after)
    if implementation == "fused":
        inner = 0
    return Cost(parameters, batch * macs, output_bytes, unit * inner, input_bytes + unit * inner)


def linear_cost(
    in_features: int, out_features: int, positions: int = 1, *, bias: bool = False, dtype: torch.dtype = torch.float32
) -> Cost:
    """Count what a linear layer costs on ``positions`` vectors.

    Returns:
        The cost.

    Example:
        >>> linear_cost(512, 2, 16, bias=True)
        Cost(parameters=1026, macs=16384, output_bytes=128, inner_bytes=0, saved_bytes=32768)
    """
    return conv_cost(in_features, out_features, (1,), (positions,), bias=bias, dtype=dtype)


def motion_cost(
    channels: int, components: int, size: int, positions: int, *, dtype: torch.dtype = torch.float32
) -> Cost:
    """Count what motion components cost (:func:`hocp_mm.functional.motion`).

    Args:
        channels: Of what they are added to.
        components: How many there are.
        size: Temporal taps.
        positions: Frames times pixels, over the batch.
        dtype: Of the activations.

    Returns:
        The cost; the result is written in place of what it is added to.

    Example:
        >>> motion_cost(64, 8, 3, 10).macs
        10480
    """
    each, written = components * (2 * channels + size), positions * components * dtype.itemsize
    saved = positions * channels * dtype.itemsize + 2 * written
    return Cost(parameters=each, macs=each * positions, inner_bytes=2 * written, saved_bytes=saved)


def paper_flops(in_channels: int, out_channels: int, positions: int, rank: int | None = None) -> int:
    r"""Count the FLOPs of a 3x3x3 convolution as the paper's FLOP figure does.

    ``2 P [R (C + T + 17) + 10 C]`` for HO-CP and ``2 P (27 C + 1) T`` for the dense convolution: two FLOPs per MAC,
    stride 1. The convention is derived from the ten plotted bars, not stated in the paper. The CP convolution itself
    is ``R (C + T + 9)``, as :func:`conv_cost` counts ``'factorized'``; ``8 R + 10 C`` more fits normalisation and
    activations, and is below 5 %. The 1 is the bias.

    Args:
        in_channels: C.
        out_channels: T.
        positions: P, frames times pixels.
        rank: R, in the figure 3 C or 6 C; None for the dense convolution.

    Returns:
        FLOPs.

    Example:
        >>> [round(paper_flops(128, 128, 16 * 32 * 32, rank) / 1e9, 3) for rank in (3 * 128, 6 * 128, None)]
        [3.477, 6.912, 14.5]
    """
    if rank is None:
        return 2 * positions * (27 * in_channels + 1) * out_channels
    return 2 * positions * (rank * (in_channels + out_channels + 17) + 10 * in_channels)


def _output_sizes(
    sizes: Sequence[int], taps: Sequence[int], stride: Sequence[int], pads: Pads, dilation: Sequence[int]
) -> tuple[int, ...]:
    reach = [d * (k - 1) + 1 for k, d in zip(taps, dilation, strict=True)]
    padded = [size + before + after for size, (before, after) in zip(sizes, pads, strict=True)]
    if any(r > p for r, p in zip(reach, padded, strict=True)):
        raise ValueError(
            f"conv_cost: the kernel must not exceed the padded input, got {tuple(reach)} on {tuple(padded)}."
        )
    return tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))


def _passes(implementation: CostForm, strides: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the axes that each depthwise convolution handles, in the order in which they run."""
    axes = range(len(strides))
    if implementation == "frame_folded" or (implementation == "fused" and len(axes) == 3):
        yield tuple(axes[1:])
        yield tuple(axes[:1])
    elif implementation in ("mobilenet", "fused"):
        yield tuple(axes)
    else:
        yield from ((axis,) for axis in sorted(axes, key=lambda a: -strides[a]))


def _automatic(in_group: int, out_group: int, taps: tuple[int, ...], rank: int, groups: int) -> CostForm:
    """Count multiplications as ``cp_conv`` does where it cannot measure; the rule has its home there."""
    sizes = (out_group, in_group, *taps)
    factors = {n: torch.empty(s, rank, device="meta") for n, s in zip(mode_names(len(taps)), sizes, strict=True)}
    return cheapest(CPKernel(torch.empty(rank, device="meta"), factors, groups))
