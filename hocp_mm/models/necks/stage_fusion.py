"""Other stages of a backbone added to its last one; the identity at the start."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.functional import RankLike, unfold_frames
from hocp_mm.layers import HOCPConv3d


class StageFusion(nn.Module):
    """Add every other stage to the last one.

    ::

        stage [N, C, T, H, W] --average--> [N, C, T', H', W'] --1x1x1 HO-CP, weight zero at first--> + last stage

    A stage that is smaller than the last one is repeated instead: adaptive averaging does both.

    Args:
        in_channels: Channels of each stage, the last stage last.
        rank: Components of each projection.
    """

    def __init__(self, in_channels: Sequence[int], rank: RankLike) -> None:
        super().__init__()
        *others, last = in_channels
        self.projections = nn.ModuleList(HOCPConv3d(channels, last, 1, bias=False, rank=rank) for channels in others)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Give the projections weight zero."""
        for projection in self.projections:
            projection.get_parameter("weights").zero_()

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Sum the stages up in the shape of the last one."""
        *others, fused = stages
        for stage, projection in zip(others, self.projections, strict=True):
            fused = fused + projection(_resized(stage, *fused.shape[2:]))
        return fused

    def step(self, stages: Sequence[Tensor]) -> Tensor:
        """Sum up stages ``[N*n, C, H, W]`` of the next frames of streams, of which each is a clip of its own."""
        return self([stage.unsqueeze(2) for stage in stages]).squeeze(2)


def _resized(stage: Tensor, frames: int, height: int, width: int) -> Tensor:
    """Average or repeat a stage to a size."""
    if stage.shape[2] != frames:
        return F.adaptive_avg_pool3d(stage, (frames, height, width))
    if stage.shape[3:] == (height, width):
        return stage
    # Frames of our backbones lie in memory as channels_last images, over which the 3-D form takes many times as long.
    images = F.adaptive_avg_pool2d(stage.transpose(1, 2).flatten(0, 1), (height, width))
    return unfold_frames(images, frames)
