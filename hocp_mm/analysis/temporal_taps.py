"""What a network has learnt along time: the taps of its temporal factors and motion components, layer by layer.

A CP layer is ``sum_r weights[r] out[:, r] in[:, r] t[:, r] h[:, r] w[:, r]``: component r counts as much as the norm of
all but its taps says, ``|weights[r]| * |out[:, r]| * |in[:, r]| * |h[:, r]| * |w[:, r]|``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.layers import HOCPConv3d, MotionComponents
from hocp_mm.layers.temporal import has_temporal_factor
from hocp_mm.models.necks.temporal_block import TemporalBlock
from hocp_mm.system.files import write_rows


@dataclass(frozen=True)
class LayerTaps:
    """The taps of one layer.

    Attributes:
        layer: Its name.
        kind: ``factor`` (temporal factor of a convolution), ``motion`` (rectified differences behind one) or ``neck``
            (a convolution in time over the last stage).
        taps: ``[k, R]``, those of motion without their mean, as the layer uses them.
        norms: How much each component counts, ``[R]``.
        offsets: Frame that each tap sees, counted from the present one, ``[k]``.
    """

    layer: str
    kind: str
    taps: Tensor
    norms: Tensor
    offsets: tuple[int, ...]

    @property
    def energy(self) -> Tensor:
        """Part of each tap in the sum of squares over the weighted components, ``[k]``; zeros where all are zero."""
        squares = (self.taps * self.norms).square().sum(1)
        return squares / squares.sum() if squares.sum() > 0 else squares

    @property
    def mean(self) -> Tensor:
        """Mean of each tap over the components, weighted by their norms, ``[k]``; zeros where all norms are zero."""
        total = self.norms.sum()
        return (self.taps * self.norms).sum(1) / total if total > 0 else torch.zeros(len(self.taps))

    @property
    def strength(self) -> float:
        """Root of the sum of squares of all weighted taps: 0 for motion components that nothing was learnt for."""
        return math.sqrt(float((self.taps * self.norms).square().sum()))

    @property
    def from_delta(self) -> float | None:
        """How far the taps are from the delta at the present frame, over its length; None for what is no factor.

        0 for a layer that looks at its own frame alone, as after transduction; 1 if it moved as far as the delta is
        long.
        """
        if self.kind != "factor":
            return None
        delta = torch.tensor([[float(offset == 0)] for offset in self.offsets])
        weight = self.norms.square().sum()
        if weight == 0:
            return 0.0
        return math.sqrt(float(((self.taps - delta) * self.norms).square().sum() / weight))

    @property
    def in_time(self) -> tuple[float, float, float]:
        """Parts of the energy in the past, the present and the future."""
        parts = [0.0, 0.0, 0.0]
        for offset, energy in zip(self.offsets, self.energy.tolist(), strict=True):
            parts[(offset >= 0) + (offset > 0)] += energy
        return parts[0], parts[1], parts[2]


@torch.no_grad()
def temporal_taps(model: nn.Module) -> list[LayerTaps]:
    """Return the taps of every layer that sees time, in the order of the network; none if none does."""
    found: list[LayerTaps] = []
    necks = {
        id(conv): block for block in model.modules() if isinstance(block, TemporalBlock)
        for conv in (block.difference, block.context)
    }  # fmt: skip
    for name, module in model.named_modules():
        layer: Any = module
        if has_temporal_factor(layer):
            size = len(layer.factors["t"])
            norms = _cp_norms(layer) if hasattr(layer, "weights") else layer.weight.flatten(1).norm(dim=1)
            found.append(_taps(name, "factor", layer.factors["t"], norms, range(-layer.before, size - layer.before)))
        elif isinstance(layer, HOCPConv3d) and layer.kernel_size[0] > 1:
            block, size, dilation = necks.get(id(layer)), layer.kernel_size[0], layer.dilation[0]
            causal = block is not None and block.causal
            before = size - 1 if causal else size // 2
            offsets = range(-before * dilation, (size - before) * dilation, dilation)
            kind = "factor" if block is None else "neck"
            found.append(_taps(name, kind, layer.factors["t"], _cp_norms(layer), offsets))
        elif isinstance(layer, MotionComponents):
            factors, size = layer.working_factors(), len(layer.factors["t"])
            norms = factors["in"].norm(dim=0) * factors["out"].norm(dim=0)
            taps = factors["t"] - factors["t"].mean(0)
            found.append(_taps(name, "motion", taps, norms, range(-layer.before, size - layer.before)))
    return found


def _taps(name: str, kind: str, taps: Tensor, norms: Tensor, offsets: Iterable[int]) -> LayerTaps:
    return LayerTaps(name, kind, taps.detach().float().cpu(), norms.detach().float().cpu(), tuple(offsets))


def _cp_norms(layer: Any) -> Tensor:
    norms = layer.weights.abs()
    for mode, factor in layer.factors.items():
        if mode != "t":
            norms = norms * factor.norm(dim=0)
    return norms


def write_taps(layers: Sequence[LayerTaps], path: Path) -> Path:
    """Write a table: a row for each tap of each layer, numbers of the whole layer repeated in each of its rows.

    Args:
        layers: What `temporal_taps` returns.
        path: CSV file; its folder is made.

    Returns:
        The path written.
    """
    write_rows(path, _rows(layers))
    return path


def _rows(layers: Sequence[LayerTaps]) -> Iterator[Sequence[object]]:
    yield (
        "layer", "kind", "offset_frames", "energy_share", "weighted_mean", "components", "strength", "from_delta",
        "past", "present", "future",
    )  # fmt: skip
    for layer in layers:
        away = layer.from_delta
        whole = (
            layer.taps.shape[1], f"{layer.strength:.6g}", "" if away is None else f"{away:.6g}",
            *(f"{part:.6g}" for part in layer.in_time),
        )  # fmt: skip
        for offset, energy, mean in zip(layer.offsets, layer.energy.tolist(), layer.mean.tolist(), strict=True):
            yield (layer.layer, layer.kind, offset, f"{energy:.6g}", f"{mean:.6g}", *whole)
