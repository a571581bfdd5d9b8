"""One residual block of the temporal neck, see :mod:`hocp_mm.models.necks.temporal_neck`."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.functional import RankLike
from hocp_mm.functional.padding import Window
from hocp_mm.layers import HOCPConv3d
from hocp_mm.layers.inner import Cfg, build_inner
from hocp_mm.layers.streaming import StreamStep


class BlockOptions(NamedTuple):
    """What all blocks of a neck have in common; the words are those of ``HOCPTemporalNeck``."""

    hidden_channels: int
    difference_kernel: int
    context_kernel: int
    spatial_kernel: int
    causal: bool
    rank: RankLike
    norm_cfg: Cfg | None
    act_cfg: Cfg | None


class TemporalBlock(nn.Module):
    """Differences in time, norm, activation, context in time; added to the input, with weight zero at the start.

    Args:
        channels: Channels in and out.
        dilation: Frames between the taps of both convolutions.
        options: The rest, as in ``HOCPTemporalNeck``.

    Raises:
        ValueError: If a kernel is even, ``difference_kernel`` is below 3 (one tap has no difference), or a causal
            block is to have a norm that averages over the future.
    """

    def __init__(self, channels: int, dilation: int, options: BlockOptions) -> None:
        super().__init__()
        _check_kernels(options)
        hidden = options.hidden_channels
        self.dilation, self.causal = dilation, options.causal
        self.difference = self._conv(channels, hidden, options.difference_kernel, options)
        inner = build_inner(options.norm_cfg, options.act_cfg, hidden, order=3)
        parts = {} if inner is None else dict(inner.named_children())
        self.norm = parts.get("norm", nn.Identity())
        if self.causal and "norm" in parts and getattr(self.norm, "running_mean", None) is None:
            raise ValueError(
                "HOCPTemporalNeck: causal=True needs a norm with running statistics, such as 'BN', "
                f"got norm_cfg={dict(options.norm_cfg or {})} (its averages would see the future)."
            )
        self.act = parts.get("act", nn.Identity())
        self.context = self._conv(hidden, channels, options.context_kernel, options)
        self.reset_parameters()

    def _conv(self, in_channels: int, out_channels: int, taps: int, options: BlockOptions) -> HOCPConv3d:
        size = (taps, options.spatial_kernel, options.spatial_kernel)
        in_time = 0 if self.causal else self.dilation * (taps // 2)
        return HOCPConv3d(
            in_channels,
            out_channels,
            size,
            padding=(in_time, size[1] // 2, size[2] // 2),
            dilation=(self.dilation, 1, 1),
            bias=False,
            # Zeros would look like a jump at both ends of a clip.
            padding_mode="replicate",
            rank=options.rank,
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start the first factor on differences (taps that sum to zero), the second on a mean of weight zero."""
        taps = self.difference.factors["t"]
        taps.sub_(taps.mean(dim=0))
        taps.div_(taps.norm(dim=0))
        self.context.factors["t"].fill_(1 / self.context.kernel_size[0])
        self.context.weights.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Add what motion says: ``[N, C, T, H, W]`` to the same shape."""
        z = self.act(self.norm(self.difference(self._behind(x, self.difference))))
        return x + self.context(self._behind(z, self.context))

    def step(self, x: Tensor, step: StreamStep) -> Tensor:
        """Add what motion says to the next frames of streams, ``[N*n, C, H, W]``."""
        z = self._along(self.difference, x, step)
        z = self.act(self.norm(z.unsqueeze(2)).squeeze(2))
        return x + self._along(self.context, z, step)

    def _along(self, conv: HOCPConv3d, x: Tensor, step: StreamStep) -> Tensor:
        """Run a convolution on the next frames of streams."""
        if (planned := step.planned(conv, x)) is not None:
            return planned
        size = conv.kernel_size
        pads = ((size[1] // 2, size[1] // 2), (size[2] // 2, size[2] // 2))  # as `_conv` has it
        window = Window((1, 1), pads, (1, 1), conv.padding_mode)
        before = size[0] - 1 if self.causal else size[0] // 2
        return step.convolve(conv, x, conv.kernel(), conv.bias, window, before, dilation=self.dilation, ends="repeat")

    def _behind(self, x: Tensor, conv: HOCPConv3d) -> Tensor:
        """Repeat the first frame in front of a clip until the last tap sees the present one, if causal."""
        if not self.causal:
            return x
        # Not inside a layer: the words of nn.ConvNd cannot say it, and whatever replaces the layer must not lose it.
        return F.pad(x, (0, 0, 0, 0, self.dilation * (conv.kernel_size[0] - 1), 0), mode="replicate")


def _check_kernels(options: BlockOptions) -> None:
    sizes = (options.difference_kernel, options.context_kernel, options.spatial_kernel)
    if any(size < 1 or size % 2 == 0 for size in sizes) or options.difference_kernel < 3:
        raise ValueError(
            "HOCPTemporalNeck: kernels must be odd, difference_kernel at least 3, "
            f"got {sizes[0]} and context_kernel {sizes[1]}, spatial_kernel {sizes[2]}."
        )
