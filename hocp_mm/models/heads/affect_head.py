"""`AffectHead`: features to one (valence, arousal) pair per frame."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from hocp_mm.registry import MODELS
from hocp_mm.structures import AffectDataSample


@MODELS.register_module()
class AffectHead(BaseModule):
    """Predict valence and arousal of every frame from the last feature map.

    ::

        [N, C, T', H', W'] -mean over H', W'-> [N, T', C] -(linear, ReLU, dropout)-> linear -> [N, T', 2]

    Space is pooled, time is not. The output is linear, without tanh, as in EmoNet: bounds are the metric's
    business, and a loss on correlations needs no saturation. Weights start small and biases at 0, so that the
    first predictions are near neutral affect.

    Args:
        in_channels: Channels C of the last feature map.
        hidden_channels: Width of one hidden layer; None for a single linear layer.
        dropout: Share of features dropped before the last layer, in [0, 1).
        loss: Config of the loss; called with ``(pred, target, valid)``, returns a dict.
        init_cfg: As in every ``BaseModule``; None keeps the initialisation above.

    Raises:
        ValueError: If ``dropout`` is outside [0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
        loss: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 <= dropout < 1:
            raise ValueError(f"AffectHead: dropout must be in [0, 1), got {dropout}.")
        self.in_channels = in_channels
        width = in_channels if hidden_channels is None else hidden_channels
        self.hidden = None if hidden_channels is None else nn.Linear(in_channels, hidden_channels)
        self.dropout = nn.Dropout(dropout)
        self.regress = nn.Linear(width, 2)
        nn.init.normal_(self.regress.weight, std=0.01)
        nn.init.zeros_(self.regress.bias)
        # The scope is written out: an unprefixed name would be looked up in the scope of the running config.
        self.loss_module = MODELS.build(loss or {"type": "hocp_mm.AffectLoss"})

    def forward(self, feats: Sequence[Tensor] | Tensor, num_frames: int | None = None) -> Tensor:
        """Predict valence and arousal, not clipped.

        Args:
            feats: Feature maps, the last one ``[N, C, T', H', W']`` counts; a single map may come bare.
            num_frames: Frames of the clip; if T' differs (temporal stride), predictions are interpolated
                linearly in time. None keeps T'.

        Returns:
            ``[N, T, 2]`` with T = ``num_frames`` or T', order (valence, arousal).

        Raises:
            ValueError: If the feature map does not have five dimensions with C channels.
        """
        last = feats if isinstance(feats, Tensor) else feats[-1]
        if last.ndim != 5 or last.shape[1] != self.in_channels:
            raise ValueError(
                f"AffectHead: features must be [N, {self.in_channels}, T, H, W], got {tuple(last.shape)} "
                "(set in_channels to the width of the last stage of the backbone or neck)."
            )
        x = last.mean((3, 4)).transpose(1, 2)  # [N, T', C]
        if self.hidden is not None:
            x = F.relu(self.hidden(x))
        pred = self.regress(self.dropout(x))
        if num_frames is not None and num_frames != pred.shape[1]:
            pred = F.interpolate(pred.transpose(1, 2), size=num_frames, mode="linear").transpose(1, 2)
        return pred

    def loss(self, feats: Sequence[Tensor] | Tensor, data_samples: Sequence[AffectDataSample]) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            feats: As in ``forward``.
            data_samples: N samples with ``gt_affect`` ``[T, 2]`` and ``gt_valid`` ``[T]``.

        Returns:
            What the loss module returns.

        Raises:
            ValueError: If a sample has no labels.
        """
        for sample in data_samples:
            if "gt_affect" not in sample or "gt_valid" not in sample:
                raise ValueError(f"AffectHead: a sample has no labels to learn from (video {sample.get('video')}).")
        target = torch.stack([sample.gt_affect for sample in data_samples])
        valid = torch.stack([sample.gt_valid for sample in data_samples])
        return self.loss_module(self(feats, target.shape[1]), target, valid)

    def predict(self, feats: Sequence[Tensor] | Tensor, num_frames: int) -> Tensor:
        """Return predictions float32 ``[N, num_frames, 2]``, whatever type autocast computed in."""
        return self(feats, num_frames).float()
