"""`AffectHead`: features to one (valence, arousal) pair per frame and, on request, an expression."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from hocp_mm.models.losses import ExpressionLoss
from hocp_mm.registry import MODELS
from hocp_mm.structures import AffectDataSample


@MODELS.register_module()
class AffectHead(BaseModule):
    """Predict valence and arousal of every frame from the last feature map.

    ::

        [N, C, T', H', W'] -mean over H', W'-> [N, T', C] -(linear, ReLU, dropout)-> linear -> [N, T', 2]
                                                              num_expressions = K -> linear -> [N, T', K]

    Space is pooled, time is not. The output is linear, without tanh, as in EmoNet: bounds are the metric's
    business, and a loss on correlations needs no saturation. Weights start small and biases at 0, so that the
    first predictions are near neutral affect.

    Expressions are one more linear layer, ``classify``. Without ``num_expressions`` there is none, and a video
    recogniser leaves that of a static stage out (`TransductionHook` lists it under ``classifier``).

    Args:
        in_channels: Channels C of the last feature map.
        hidden_channels: Width of one hidden layer; None for a single linear layer.
        dropout: Share of features dropped before the last layer, in [0, 1).
        loss: Config of the loss; called with ``(pred, target, valid)``, and a weight where samples have one; returns a
            dict.
        init_cfg: As in every ``BaseModule``; None keeps the initialisation above.
        num_expressions: Classes K of expressions to learn beside valence and arousal; None for none.
        expression_weight: Factor on their cross-entropy.
        class_weights: Weight of each class in it (see `ExpressionLoss`); None weighs all alike.

    Attributes:
        spare_layers: Layers that a checkpoint may have and this head does without.

    Raises:
        ValueError: If ``dropout`` is outside [0, 1), or ``class_weights`` comes without ``num_expressions``.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
        loss: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        num_expressions: int | None = None,
        expression_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 <= dropout < 1:
            raise ValueError(f"AffectHead: dropout must be in [0, 1), got {dropout}.")
        if class_weights is not None and num_expressions is None:
            raise ValueError("AffectHead: class_weights need num_expressions, got None.")
        self.in_channels = in_channels
        width = in_channels if hidden_channels is None else hidden_channels
        self.hidden = None if hidden_channels is None else nn.Linear(in_channels, hidden_channels)
        self.dropout = nn.Dropout(dropout)
        self.regress = nn.Linear(width, 2)
        nn.init.normal_(self.regress.weight, std=0.01)
        nn.init.zeros_(self.regress.bias)
        # The scope is written out: an unprefixed name would be looked up in the scope of the running config.
        self.loss_module = MODELS.build(loss or {"type": "hocp_mm.AffectLoss"})
        self.classify: nn.Linear | None = None
        self.spare_layers = ("classify",) if num_expressions is None else ()
        if num_expressions is not None:
            self.expression_loss = ExpressionLoss(num_expressions, class_weights, expression_weight)
            self.classify = nn.Linear(width, num_expressions)
            nn.init.normal_(self.classify.weight, std=0.01)
            nn.init.zeros_(self.classify.bias)

    def forward(self, feats: Sequence[Tensor] | Tensor, num_frames: int | None = None) -> Tensor:
        """Predict valence and arousal, not clipped.

        Args:
            feats: Feature maps, the last one ``[N, C, T', H', W']`` counts; a single map may come bare.
            num_frames: Frames of the clip; if T' differs (temporal stride), predictions are interpolated
                linearly in time. None keeps T'.

        Returns:
            ``[N, T, 2]`` with T = ``num_frames`` or T', order (valence, arousal).

        Features without five dimensions and C channels are refused.
        """
        return _at_frames(self.regress(self._embed(feats)), num_frames)

    def _embed(self, feats: Sequence[Tensor] | Tensor) -> Tensor:
        """Return what enters the last layers, ``[N, T', width]``."""
        last = feats if isinstance(feats, Tensor) else feats[-1]
        if last.ndim != 5 or last.shape[1] != self.in_channels:
            raise ValueError(
                f"AffectHead: features must be [N, {self.in_channels}, T, H, W], got {tuple(last.shape)} "
                "(set in_channels to the width of the last stage of the backbone or neck)."
            )
        x = last.mean((3, 4)).transpose(1, 2)  # [N, T', C]
        if self.hidden is not None:
            x = F.relu(self.hidden(x))
        return self.dropout(x)

    def loss(self, feats: Sequence[Tensor] | Tensor, data_samples: Sequence[AffectDataSample]) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            feats: As in ``forward``.
            data_samples: N samples with ``gt_affect`` ``[T, 2]``, ``gt_valid`` ``[T]``, ``gt_weight`` ``[T]`` where
                frames do not count alike (a sample without it then counts as 1 throughout) and, where there are
                expressions to learn, ``gt_expression`` ``[T]``; a sample without it (of a set that has none) counts as
                -1 throughout.

        Returns:
            What the loss module returns, and what `ExpressionLoss` returns.

        Raises:
            ValueError: If a sample has no labels, or a class that the head does not know.
        """
        for sample in data_samples:
            if "gt_affect" not in sample or "gt_valid" not in sample:
                raise ValueError(f"AffectHead: a sample has no labels to learn from (video {sample.get('video')}).")
        target = torch.stack([sample.gt_affect for sample in data_samples])
        valid = torch.stack([sample.gt_valid for sample in data_samples])
        x, num_frames = self._embed(feats), target.shape[1]
        pred = _at_frames(self.regress(x), num_frames)
        if any("gt_weight" in sample for sample in data_samples):
            alike = torch.ones_like(target[0, :, 0])
            weight = torch.stack([sample.get("gt_weight", alike) for sample in data_samples])
            losses = self.loss_module(pred, target, valid, weight)
        else:
            losses = self.loss_module(pred, target, valid)
        if self.classify is None:
            return losses
        return losses | self.expression_loss(_at_frames(self.classify(x), num_frames), self._classes(data_samples))

    def _classes(self, data_samples: Sequence[AffectDataSample]) -> Tensor:
        """Stack the classes of the samples, ``[N, T]``."""
        none = [torch.full_like(sample.gt_valid, -1, dtype=torch.int64) for sample in data_samples]
        classes = torch.stack(
            [sample.get("gt_expression", absent) for sample, absent in zip(data_samples, none, strict=True)]
        )
        known = self.expression_loss.num_classes
        if int(classes.max()) >= known:  # a GPU would die of it without a word
            row = int(classes.amax(dim=1).argmax())
            raise ValueError(
                f"AffectHead: classes must be below num_expressions={known}, got {int(classes[row].max())} "
                f"(video {data_samples[row].get('video')})."
            )
        return classes

    def predict(self, feats: Sequence[Tensor] | Tensor, num_frames: int) -> Tensor:
        """Predict what goes into the samples.

        Args:
            feats: As in ``forward``.
            num_frames: As in ``forward``.

        Returns:
            Float32 ``[N, num_frames, 2]``, whatever type autocast computed in. With expressions ``[N, num_frames,
            2 + K]``: probabilities of the classes follow valence and arousal.
        """
        x = self._embed(feats)
        pred = _at_frames(self.regress(x), num_frames).float()
        if self.classify is None:
            return pred
        return torch.cat([pred, _at_frames(self.classify(x), num_frames).float().softmax(dim=-1)], dim=-1)


def _at_frames(values: Tensor, num_frames: int | None) -> Tensor:
    """Interpolate ``[N, T', C]`` linearly to ``[N, num_frames, C]``; None or T' change nothing."""
    if num_frames is None or num_frames == values.shape[1]:
        return values
    return F.interpolate(values.transpose(1, 2), size=num_frames, mode="linear").transpose(1, 2)
