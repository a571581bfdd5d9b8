"""`AffectRecognizer`: backbone, neck and head as one mmengine model."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from hocp_mm.registry import MODELS
from hocp_mm.structures import AffectDataSample

Feats = tuple[Tensor, ...]


@MODELS.register_module()
class AffectRecognizer(BaseModel):
    """Regress valence and arousal of every frame of a clip; an image is a clip of one frame.

    Works with `TimmHOCPBackbone` and with any MMAction2 3-D backbone: one feature map or a tuple of them (the last
    counts), with or without temporal stride. Every part is a config or a built module; config types from other
    packages carry their scope (``mmaction.ResNet3d``).

    Args:
        backbone: Clip ``[N, 3, T, H, W]`` -> feature maps ``[N, C, T', H', W']``.
        head: As `AffectHead`: ``loss(feats, data_samples)``, ``predict(feats, num_frames)``, ``forward``. A config
            without ``in_channels`` gets the channels of the backbone's last map, if the backbone tells its
            ``out_channels``: another network then is one word in the config.
        neck: Tuple of feature maps -> the same; None for none. A config without ``in_channels`` gets those of the
            backbone's map, or of all its maps if it returns several.
        data_preprocessor: `AffectDataPreprocessor` with ImageNet statistics by default.
        test_cfg: ``flip``: whether predictions of validation and test (``mode="predict"``) are the mean over the clip
            and its mirror image, as in EmoNet's ``evaluate_flip``; probabilities of expressions, too. Off by default,
            at twice the cost; ``--cfg-options model.test_cfg.flip=True`` turns it on, and a checkpoint trained with
            it records it. Other modes never mirror.
        init_cfg: As in every ``BaseModule``.

    Raises:
        ValueError: If ``test_cfg`` has an unknown key.
    """

    def __init__(
        self,
        backbone: Any,
        head: Any,
        neck: Any = None,
        data_preprocessor: Any = None,
        test_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        preprocessor = data_preprocessor or {"type": "hocp_mm.AffectDataPreprocessor"}
        super().__init__(_build(preprocessor), init_cfg)
        unknown = sorted(set(test_cfg or {}) - {"flip"})
        if unknown:
            raise ValueError(f"AffectRecognizer: test_cfg knows flip only, got {', '.join(unknown)}.")
        self.backbone = _build(backbone)
        known = getattr(self.backbone, "out_channels", ())
        widths = [known] if isinstance(known, int) else list(known)
        self.neck = None if neck is None else _build(_with_channels(neck, widths[0] if len(widths) == 1 else widths))
        self.head = _build(_with_channels(head, widths[-1] if widths else None))
        self.flip = bool((test_cfg or {}).get("flip", False))

    def extract_feat(self, inputs: Tensor) -> Feats:
        """Return the feature maps that enter the head, last stage last, for a clip ``[N, 3, T, H, W]``.

        Raises:
            TypeError: If the neck returns anything but feature maps.
        """
        feats = self.backbone(inputs)
        feats = (feats,) if isinstance(feats, Tensor) else tuple(feats)
        if self.neck is None:
            return feats
        refined = tuple(self.neck(feats))
        others = [type(feat).__name__ for feat in refined if not isinstance(feat, Tensor)]
        if others:
            raise TypeError(
                f"AffectRecognizer: the neck must return feature maps alone, got {others} with them "
                "(HOCPTemporalNeck: with_losses=False)."
            )
        return refined

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - the base forgets mode="tensor"
        self,
        inputs: Tensor,
        data_samples: Sequence[AffectDataSample] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[AffectDataSample]:
        """Run one batch.

        Args:
            inputs: Normalised clips, float ``[N, 3, T, H, W]``.
            data_samples: N samples; needed for ``loss``, completed in place by ``predict``.
            mode: ``tensor``: predictions ``[N, T, 2]`` with gradients. ``loss``: dict of losses. ``predict``: the
                samples (new ones if None came) with ``pred_affect`` ``[T, 2]``, and with ``pred_scores`` and
                ``pred_expression`` where the head has them, flip-averaged if so configured.

        Returns:
            What the mode says.

        Raises:
            ValueError: If the mode is unknown, or ``loss`` gets no samples.
        """
        if mode == "tensor":
            return self.head(self.extract_feat(inputs), inputs.shape[2])
        if mode == "loss":
            if data_samples is None:
                raise ValueError("AffectRecognizer: mode='loss' needs data_samples with labels.")
            return self.head.loss(self.extract_feat(inputs), data_samples)
        if mode == "predict":
            return self._predict(inputs, data_samples)
        raise ValueError(f"AffectRecognizer: mode must be tensor, loss or predict, got {mode!r}.")

    def _predict(self, inputs: Tensor, data_samples: Sequence[AffectDataSample] | None) -> list[AffectDataSample]:
        num_frames = inputs.shape[2]
        pred: Tensor = self.head.predict(self.extract_feat(inputs), num_frames)
        if self.flip:
            pred = (pred + self.head.predict(self.extract_feat(inputs.flip(-1)), num_frames)) / 2
        samples = [AffectDataSample() for _ in inputs] if data_samples is None else list(data_samples)
        for sample, row in zip(samples, pred, strict=True):
            affect, scores = row[:, :2], row[:, 2:]
            sample.set_pred(affect, scores if scores.shape[1] else None)
        return samples


def _with_channels(part: Any, channels: Any) -> Any:
    """Complete a config that leaves its input channels to the backbone."""
    if isinstance(part, dict) and "in_channels" not in part and channels:
        return {**part, "in_channels": channels}
    return part


def _build(part: Any) -> Any:
    """Build a config in our registry; what is built already passes through."""
    return part if isinstance(part, torch.nn.Module) else MODELS.build(part)
