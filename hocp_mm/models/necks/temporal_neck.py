r"""Residual HO-CP blocks in time over backbone features, identity at the start.

    x ----------------------------------------------------------------------------> + --> y
      \--> differences (k x 1 x 1) --> batch norm --> ReLU --> context (K x 1 x 1) --/

Why: with delta temporal factors the network starts as the image network, and what shows only in motion (how *fast*
something changes, not where it is) is a second-order effect there: gradients find it slowly. The first convolution
starts on temporal differences, whose rectified size is that motion, and the last one at weight zero, so nothing that
was transducted changes. Differences before pooling are an old idea (TSN's RGB difference, TDN's temporal difference);
their place here is ours, not the paper's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from hocp_mm.functional import RankLike
from hocp_mm.layers import HOCPConv3d
from hocp_mm.registry import MODELS


class TemporalBlock(nn.Module):
    """One residual block of the neck.

    Args:
        channels: Channels in and out.
        hidden_channels: Channels between the two convolutions.
        difference_kernel: Taps of the first convolution.
        context_kernel: Taps of the second one, which pools over time.
        dilation: Frames between the taps of both.
        rank: Components of both.

    Raises:
        ValueError: If a kernel is even, or ``difference_kernel`` below 3 (one tap has no difference).
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        difference_kernel: int,
        context_kernel: int,
        dilation: int,
        rank: RankLike,
    ) -> None:
        super().__init__()
        if difference_kernel < 3 or difference_kernel % 2 == 0 or context_kernel < 1 or context_kernel % 2 == 0:
            raise ValueError(
                "HOCPTemporalNeck: kernels must be odd, difference_kernel at least 3, "
                f"got {difference_kernel} and {context_kernel}."
            )

        def conv(in_channels: int, out_channels: int, size: int, bias: bool) -> HOCPConv3d:
            return HOCPConv3d(
                in_channels,
                out_channels,
                (size, 1, 1),
                padding=(dilation * (size // 2), 0, 0),
                dilation=(dilation, 1, 1),
                bias=bias,
                # Zeros would look like a jump at both ends of a clip.
                padding_mode="replicate",
                rank=rank,
            )

        self.difference = conv(channels, hidden_channels, difference_kernel, bias=False)
        self.norm = nn.BatchNorm3d(hidden_channels)
        self.context = conv(hidden_channels, channels, context_kernel, bias=False)
        self.reset_parameters()

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
        return x + self.context(self.norm(self.difference(x)).relu())


@MODELS.register_module()
class HOCPTemporalNeck(BaseModule):
    """Residual temporal HO-CP blocks over the last stage of a backbone; identity until trained.

    Works with any backbone that keeps time, ours or a stock one; any number of frames.

    Args:
        in_channels: Channels of the last stage.
        hidden_channels: Channels inside a block.
        difference_kernel: Taps of a block's first convolution; odd, at least 3.
        context_kernel: Taps of a block's second convolution; odd.
        dilations: Frames between taps, one block for each.
        rank: Components of each convolution (see :func:`hocp_mm.functional.resolve_rank`).
        init_cfg: As in mmengine.

    Raises:
        ValueError: If a kernel is even or too short.
    """

    # Weight transfer may leave this module at its start when the source does not know it.
    identity_at_start = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 128,
        difference_kernel: int = 3,
        context_kernel: int = 9,
        dilations: Sequence[int] = (1,),
        rank: RankLike = 128,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.blocks = nn.Sequential(
            *(
                TemporalBlock(in_channels, hidden_channels, difference_kernel, context_kernel, dilation, rank)
                for dilation in dilations
            )
        )

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Refine the last of the stages ``[N, C, T, H, W]``; the others pass through."""
        return (*feats[:-1], self.blocks(feats[-1]))
