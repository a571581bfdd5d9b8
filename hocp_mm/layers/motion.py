"""Motion components as a module of a layer that sees time (:mod:`hocp_mm.functional.motion`)."""

from typing import TypedDict, get_args

import torch
from torch import Tensor, nn

from hocp_mm.functional.motion import Rectifier, add_moved, motion, seen_by, step_weights
from hocp_mm.functional.rank import RankLike, resolve_rank
from hocp_mm.layers.reparametrized import refresh_
from hocp_mm.layers.streaming import StreamStep


class MotionOptions(TypedDict, total=False):
    """Words of :class:`MotionComponents`."""

    rank: RankLike
    rectifier: Rectifier


class MotionComponents(nn.Module):
    """Rectified differences in time behind a convolution; nothing at the start, and for what stands still for ever.

    Parameters: ``factors.in`` ``[channels, components]`` and ``factors.t`` ``[size, components]``, drawn with columns
    of norm 1, and ``factors.out`` ``[channels, components]``, zero.

    Args:
        channels: Of what is added to.
        size: Temporal taps, 2 or more, as many as the temporal factor of the layer has.
        before: Index of the tap that sees the present frame.
        rank: Components, in the words of a layer's rank: an int, or an expansion over the channels (``'x0.125'``).
        rectifier: ``'abs'`` or ``'relu'``.

    Raises:
        ValueError: If there are fewer than two taps, which have no difference, none of them sees the present frame, or
            a word does not fit.
    """

    # Weight transfer may leave this module at its start when the source does not know it.
    identity_at_start = True

    def __init__(
        self, channels: int, size: int, before: int, rank: RankLike = "x0.125", rectifier: Rectifier = "abs"
    ) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"MotionComponents: size must be 2 taps or more, got {size}.")
        if not 0 <= before < size:
            raise ValueError(f"MotionComponents: before must be one of {size} taps, got {before}.")
        if rectifier not in get_args(Rectifier):
            raise ValueError(f"MotionComponents: rectifier must be one of {get_args(Rectifier)}, got {rectifier!r}.")
        self.before = before
        self.rectifier: Rectifier = rectifier
        components = resolve_rank(rank, channels, channels, (size,))
        sizes = {"in": channels, "t": size, "out": channels}
        self.factors = nn.ParameterDict({name: torch.empty(length, components) for name, length in sizes.items()})
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw directions and differences, and return to zero."""
        directions, taps = self.factors["in"].normal_(), self.factors["t"].normal_()
        taps -= taps.mean(0)
        for factor in (directions, taps):
            factor /= factor.norm(dim=0)
        self.factors["out"].zero_()

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Add what moves to ``[N*T, C, H, W]``."""
        return motion(images, self.working_factors(), frames, self.before, self.rectifier)

    def working_factors(self) -> dict[str, Tensor]:
        """Return the live factors, or what is computed from them now."""
        refresh_(self.factors)
        return {name: self.factors[name] for name in ("in", "t", "out")}  # a ParameterDict is slow to look into

    def step(self, images: Tensor, step: StreamStep) -> Tensor:
        """Add what moves to the next frames of streams, ``[N*n, C, H, W]``."""
        factors = self.working_factors()
        ahead = len(factors["t"]) - 1 - self.before
        seen = seen_by(images, factors["in"])
        moved = step.along_time(self, seen, step_weights(factors["t"]), self.before, ends="repeat", differences=True)
        if ahead:
            images = step.delayed(f"{step.names[self]}.images", images, ahead)
        return add_moved(images, moved, factors["out"], self.rectifier)

    def extra_repr(self) -> str:
        """Describe the components."""
        (channels, components), size = self.factors["in"].shape, len(self.factors["t"])
        return f"{channels}, rank={components}, temporal_kernel={size}, rectifier={self.rectifier!r}"
