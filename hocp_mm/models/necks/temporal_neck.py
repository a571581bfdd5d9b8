r"""Residual HO-CP blocks in time over backbone features, identity at the start.

    x ----------------------------------------------------------------------------> + --> y
      \--> differences (k x s x s) --> batch norm --> ReLU --> context (K x s x s) --/

Why: with delta temporal factors the network starts as the image network, and what shows only in motion (how *fast*
something changes, not where it is) is a second-order effect there: gradients find it slowly. The first convolution
starts on temporal differences, whose rectified size is that motion, and the last one at weight zero, so nothing that
was transducted changes. Differences before pooling are an old idea (TSN's RGB difference, TDN's temporal difference);
their place here is ours, not the paper's.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, cast

from mmengine.model import BaseModule
from torch import Tensor, nn

from hocp_mm.functional import RankLike
from hocp_mm.layers.inner import Cfg
from hocp_mm.layers.streaming import StreamStep
from hocp_mm.models.necks.stage_fusion import StageFusion
from hocp_mm.models.necks.temporal_block import BlockOptions, TemporalBlock
from hocp_mm.registry import MODELS

Stages = tuple[Tensor, ...]
Feats = Tensor | Stages

_BATCH_NORM: Cfg = MappingProxyType({"type": "BN"})
_RELU: Cfg = MappingProxyType({"type": "ReLU"})
_NOT_GIVEN = object()


@MODELS.register_module()
class HOCPTemporalNeck(BaseModule):
    """Residual temporal HO-CP blocks over the last stage of a backbone; identity until trained.

    Works with any backbone that keeps time, ours or a stock one; any number of frames and any size. Training moves the
    weights that are zero at the start in its first step, and everything else from the second step on.

    How long the context is, in frames of the last stage (:attr:`receptive_field`)::

        1 + sum(dilations) * (difference_kernel + context_kernel - 2)

    With the default kernels 3 and 9 that is 11 frames for ``dilations=(1,)``, 31 for ``(1, 2)``, 71 for ``(1, 2, 4)``
    and 151 for ``(1, 2, 4, 8)``; half of them on each side, or all in the past if ``causal``. In a shorter clip, the
    frames beyond its ends are copies of its first and last frame.

    In `AffectRecognizer` stages come as a tuple and leave as a tuple. MMAction2's ``Recognizer3D`` wants
    ``(feats, losses)``: it gets that, with no losses, where it passes a lone tensor (a backbone with one stage).
    Several stages need ``with_losses=True``, because its test mode passes a tuple exactly as ours does; without,
    training refuses at its first step.

    Args:
        in_channels: Channels of the last stage; the other stages pass through. Or channels of every stage that the
            backbone returns, the last stage last: then the others are averaged to the size of the last one (in time,
            too, if a stage has another number of frames), and added to it through a 1x1x1 HO-CP convolution of weight
            zero at the start.
        hidden_channels: Channels inside a block.
        difference_kernel: Taps in time of a block's first convolution; odd, at least 3.
        context_kernel: Taps in time of a block's second convolution; odd.
        dilations: Frames between taps, one block for each.
        rank: Components of each convolution (see :func:`hocp_mm.functional.resolve_rank`).
        init_cfg: As in mmengine.
        spatial_kernel: Taps in height and width of both convolutions; odd.
        causal: Whether frames depend on the present and the past alone, for streams; in evaluation mode, because
            batch norm in training averages over all frames.
        norm_cfg: Norm in OpenMMLab's words (see :mod:`hocp_mm.layers.inner`); None for none.
        act_cfg: Activation in OpenMMLab's words; None for none.
        last_only: Whether to return the refined stage alone: a tuple of one, or a tensor if losses go with it
            (stock heads take a tensor).
        with_losses: Whether every call returns ``(feats, {})``, as ``Recognizer3D`` wants.

    Raises:
        ValueError: If a kernel is even or too short, ``in_channels`` or ``dilations`` are not positive, or ``causal``
            meets a norm without running statistics.
    """

    # Weight transfer may leave this module at its start when the source does not know it.
    identity_at_start = True

    def __init__(
        self,
        in_channels: int | Sequence[int],
        hidden_channels: int = 128,
        difference_kernel: int = 3,
        context_kernel: int = 9,
        dilations: int | Sequence[int] = (1,),
        rank: RankLike = 128,
        init_cfg: Any = None,
        *,
        spatial_kernel: int = 1,
        causal: bool = False,
        norm_cfg: Cfg | None = _BATCH_NORM,
        act_cfg: Cfg | None = _RELU,
        last_only: bool = False,
        with_losses: bool = False,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = in_channels if isinstance(in_channels, int) else tuple(in_channels)
        stages = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        self.dilations = (dilations,) if isinstance(dilations, int) else tuple(dilations)
        for name, values in (("in_channels", stages), ("dilations", self.dilations)):
            if not values or min(values) < 1:
                raise ValueError(f"HOCPTemporalNeck: {name} must be positive and at least one, got {values}.")
        self.causal, self.last_only, self.with_losses = causal, last_only, with_losses
        options = BlockOptions(
            hidden_channels, difference_kernel, context_kernel, spatial_kernel, causal, rank, norm_cfg, act_cfg
        )
        self._reach = difference_kernel + context_kernel - 2
        # Only where asked for: the state dict of a neck over one stage has the blocks alone.
        self.fusion = StageFusion(stages, rank) if len(stages) > 1 else None
        self.blocks = nn.Sequential(*(TemporalBlock(stages[-1], dilation, options) for dilation in self.dilations))

    @property
    def receptive_field(self) -> int:
        """Frames of the last stage that one output frame depends on: this many suffice for a causal stream."""
        return 1 + sum(self.dilations) * self._reach

    def forward(self, feats: Tensor | Sequence[Tensor], data_samples: Any = _NOT_GIVEN) -> Feats | tuple[Feats, dict]:
        """Refine the last stage.

        Args:
            feats: Stages ``[N, C, T, H, W]``, the last stage last; or one stage alone.
            data_samples: Not read; that it is given says that `Recognizer3D` calls.

        Returns:
            The stages as a tuple, the last one refined; ``(stages, {})`` if built ``with_losses``. For a lone tensor
            always ``(tensor, {})``.

        Raises:
            TypeError: If ``feats`` holds anything but tensors.
            ValueError: If number, shapes or frames of the stages do not fit, or `Recognizer3D` passes a tuple without
                ``with_losses=True``.
        """
        alone = isinstance(feats, Tensor)
        stages = (feats,) if isinstance(feats, Tensor) else tuple(feats)
        with_losses = self.with_losses or alone
        if data_samples is not _NOT_GIVEN and not with_losses:
            raise ValueError(
                "HOCPTemporalNeck: Recognizer3D with a tuple of stages needs with_losses=True, got False "
                f"for {len(stages)} stages (in test mode nothing would tell it from AffectRecognizer)."
            )
        self._check(stages)
        last = self.blocks(stages[-1] if self.fusion is None else self.fusion(stages))
        if alone or (self.last_only and with_losses):
            return last, {}
        out = (last,) if self.last_only else (*stages[:-1], last)
        return (out, {}) if with_losses else out

    def step(self, stages: Stages, step: StreamStep) -> Stages:
        """Refine the last stage of the next frames of streams.

        Args:
            stages: Each ``[N*n, C, H, W]``, the last stage last.
            step: What came before.

        Returns:
            The last stage, refined, in the place that the head looks at.
        """
        last = stages[-1] if self.fusion is None else self.fusion.step(stages)
        for block in self.blocks:
            last = cast("TemporalBlock", block).step(last, step)
        return (last,) if self.last_only else (*stages[:-1], last)

    def _check(self, stages: Stages) -> None:
        """Refuse stages that do not fit, all at once and with their shapes."""
        kinds = [type(stage).__name__ for stage in stages if not isinstance(stage, Tensor)]
        if kinds:
            raise TypeError(f"HOCPTemporalNeck: feats must be a tensor or a tuple of tensors, got {kinds} in it.")
        shapes = [tuple(stage.shape) for stage in stages]
        used, expected, wanted = shapes, self.in_channels, "all stages (of one N)"
        if isinstance(expected, int):
            used, expected, wanted = shapes[-1:], (expected,), "the last stage"
        fits = len(used) == len(expected) and all(
            len(shape) == 5 and shape[1] == channels and min(shape[2:]) > 0 and shape[0] == used[0][0]
            for shape, channels in zip(used, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"HOCPTemporalNeck: in_channels={self.in_channels} needs {wanted} to be [N, C, T, H, W] of as many "
                f"channels and at least one frame, got shapes {shapes}."
            )
        if self.causal and len({shape[2] for shape in used}) > 1:
            raise ValueError(
                "HOCPTemporalNeck: causal=True needs stages of as many frames, "
                f"got shapes {shapes} (averaging over time would see the future)."
            )
