"""A timm CNN as a video backbone with HO-CP kernels."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from hocp_mm.checkpoints import (
    LoadReport,
    check_timm_name,
    classifier_prefixes,
    download_timm_weights,
    load_image_weights_,
    read_checkpoint,
    unwrap_state_dict,
)
from hocp_mm.functional import Init, fold_frames, unfold_frames
from hocp_mm.layers import FrameAxis, factorize_, transduct_
from hocp_mm.layers.selection import Patterns, RankRule
from hocp_mm.registry import MODELS

# What mmengine's Runner and stock recognisers put in front of a backbone's own names.
_NET_PREFIXES = ("backbone.net.", "net.", "")


@MODELS.register_module()
class TimmHOCPBackbone(BaseModule):
    """Run a timm CNN on clips: dense ``k x k`` kernels in CP form, time as one more factor.

    Frames are folded into the batch, so every other layer of the network stays what it is. With ``temporal_init``
    central or last and no training, every frame's features equal those of the same HO-CP network without temporal
    factors. Fitting CP kernels to dense weights is approximate; the :class:`LoadReport` tells the errors.

    Args:
        model_name: Name in timm, such as ``'resnet18'``.
        pretrained: Start from timm's own weights, decomposed to ``rank``.
        checkpoint: Or start from a file (``.safetensors``, ``.pth``) with an image network's weights, dense or CP.
        rank: Components per layer: an int, ``'x1'`` (expansion over the input channels), ``'same'`` (parameter
            parity), or a mapping from patterns on layer names to those.
        temporal_kernel: Taps in time; 1 gives the image network (no temporal factors), which still takes clips.
        temporal_init: ``'central'``, ``'last'`` (causal) or ``'uniform'``.
        temporal_layers: Patterns on layer names; None takes every HO-CP and every grouped ``k x k`` layer.
        factorize: Patterns on layer names; None takes every dense ``k x k`` layer with more than 4 input channels.
        out_indices: Stages to return, as in timm's ``features_only``; the last one by default.
        in_chans: Input channels.
        seed: Of decompositions.
        timm_options: More keyword arguments for ``timm.create_model``.
        init_cfg: Must be None; weights come through ``pretrained``, ``checkpoint`` or ``hocp_mm.TransductionHook``.

    Raises:
        UnknownModelError: If timm does not know ``model_name``.
        CheckpointError: If weights cannot be fetched or do not fit.
        ValueError: If both ``pretrained`` and ``checkpoint`` are given, the network has no convolution to factorize,
            or ranks, patterns or the temporal kernel do not fit.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        checkpoint: str | None = None,
        rank: RankRule = "x1",
        temporal_kernel: int = 3,
        temporal_init: Init = "central",
        temporal_layers: Patterns | None = None,
        factorize: Patterns | None = None,
        out_indices: Sequence[int] = (-1,),
        in_chans: int = 3,
        seed: int = 0,
        timm_options: Mapping[str, Any] | None = None,
        init_cfg: None = None,
    ) -> None:
        if init_cfg is not None:
            raise ValueError(f"TimmHOCPBackbone: init_cfg must be None, got {init_cfg!r} (use checkpoint=...).")
        if pretrained and checkpoint is not None:
            raise ValueError(f"TimmHOCPBackbone: give pretrained or checkpoint, got both ({checkpoint!r}).")
        super().__init__()
        check_timm_name(model_name)
        self.model_name, self.in_chans, self.seed = model_name, in_chans, seed
        self.net: nn.Module = timm.create_model(
            model_name, features_only=True, out_indices=tuple(out_indices), in_chans=in_chans, **(timm_options or {})
        )
        self.factorized = factorize_(self.net, rank, layers=factorize, fit=False)
        if not self.factorized:
            raise ValueError(f"TimmHOCPBackbone: the network must have a dense k x k convolution, got '{model_name}'.")
        self.frame_axis = FrameAxis()
        self.transducted: list[str] = []
        if temporal_kernel != 1:
            self.transducted = transduct_(
                self.net, temporal_kernel, temporal_init, layers=temporal_layers, frame_axis=self.frame_axis
            )
        self.net.to(memory_format=torch.channels_last)
        if pretrained:
            self.load_report: LoadReport | None = self.load_image_weights("timm")
        else:
            self.load_report = None if checkpoint is None else self.load_image_weights(checkpoint)

    @property
    def out_channels(self) -> list[int]:
        """Channels of each returned stage."""
        return list(cast("Any", self.net).feature_info.channels())

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Compute features of every frame.

        Args:
            clip: Normalised frames ``[N, C, T, H, W]``; T may change between calls.

        Returns:
            One tensor ``[N, C', T, H', W']`` per stage in ``out_indices``, the last stage last.

        Raises:
            ValueError: If ``clip`` has another number of dimensions or channels, or no frame.
        """
        if clip.ndim != 5 or clip.shape[1] != self.in_chans or clip.shape[2] == 0:
            raise ValueError(
                f"TimmHOCPBackbone: clip must be [N, {self.in_chans}, T, H, W] with T >= 1, "
                f"got shape {tuple(clip.shape)}."
            )
        frames = clip.shape[2]
        self.frame_axis.length = frames
        return tuple(unfold_frames(feature, frames) for feature in self.net(fold_frames(clip)))

    def init_weights(self) -> None:
        """Do nothing: the weights were set when the backbone was built.

        mmengine would call timm's ``init_weights`` here and lose loaded weights.
        """

    def load_image_weights(
        self,
        source: str,
        *,
        seed: int | None = None,
        allow_missing: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> LoadReport:
        """Load an image network's weights into this backbone (see :mod:`hocp_mm.checkpoints`).

        Args:
            source: ``'timm'`` for timm's own pretrained weights, else a file with the names of timm, dense or CP;
                a backbone inside a recogniser's checkpoint is found, too.
            seed: Of the decompositions; None takes the constructor's.
            allow_missing: Load what fits instead of refusing.
            progress: Called with a line of text for each decomposed layer.

        Returns:
            The account of the transfer.

        Raises:
            CheckpointError: If the weights cannot be read or do not fit.
        """
        classifier = list(classifier_prefixes(self.model_name))
        if source == "timm":
            state, source = download_timm_weights(self.model_name, self.in_chans), f"timm '{self.model_name}'"
        else:
            state = unwrap_state_dict(read_checkpoint(Path(source)))
            prefix = next(p for p in _NET_PREFIXES if p == "" or any(key.startswith(p) for key in state))
            classifier += [] if prefix == "" else [k.split(".")[0] for k in state if not k.startswith(prefix)]
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        return load_image_weights_(
            self.net,
            state,
            source=source,
            classifier=classifier,
            seed=self.seed if seed is None else seed,
            allow_missing=allow_missing,
            progress=progress,
        )
