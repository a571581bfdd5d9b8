"""`AffectDataPreprocessor`: stack uint8 clips, move them, normalise on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from hocp_mm.registry import MODELS

# timm's IMAGENET_DEFAULT_MEAN and _STD, times 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class AffectDataPreprocessor(BaseDataPreprocessor):
    """Turn packed clips into one normalised float batch.

    Clips cross to the device as uint8, a quarter of the bytes of floats.

    Args:
        mean: One value per channel, on the scale 0 - 255.
        std: One value per channel, on the same scale, not 0.
        non_blocking: Whether copies from pinned memory may overlap with compute.

    Raises:
        ValueError: If ``mean`` and ``std`` differ in length, or a ``std`` is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                "AffectDataPreprocessor: mean and std must have one value per channel, std > 0, "
                f"got mean={tuple(mean)} and std={tuple(std)}."
            )
        # Not part of the weights: a checkpoint then fits whatever normalisation the config states.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalise one collated batch.

        Args:
            data: ``inputs``: list of N uint8 clips ``[C, T, H, W]`` of one shape, or the stacked tensor;
                ``data_samples``: list of N `AffectDataSample`, or absent.
            training: Not used; augmentation belongs to the data pipeline.

        Returns:
            ``inputs`` float32 ``[N, C, T, H, W]`` and ``data_samples`` (list or None), both on the device.

        Raises:
            TypeError: If a clip is not uint8.
            ValueError: If shapes differ within the batch, or the number of channels is wrong.
        """
        samples = self.cast_data(data.get("data_samples"))
        clips = list(data["inputs"])
        self._check(clips, samples)  # pyright: ignore[reportArgumentType]
        batch = torch.stack([clip.to(self.device, non_blocking=bool(self._non_blocking)) for clip in clips])
        return {"inputs": batch.float().sub_(self.mean).div_(self.std), "data_samples": samples}

    def _check(self, clips: list[Tensor], samples: Sequence[Any] | None) -> None:
        if not clips:
            raise ValueError("AffectDataPreprocessor: the batch is empty.")
        for index, clip in enumerate(clips):
            video = f" of video {samples[index].get('video')}" if samples else ""
            if clip.dtype != torch.uint8:
                raise TypeError(f"AffectDataPreprocessor: clips must be uint8, got {clip.dtype} (clip {index}{video}).")
            if clip.ndim != 4 or clip.shape[0] != len(self.mean):
                raise ValueError(
                    f"AffectDataPreprocessor: a clip must be [{len(self.mean)}, T, H, W], "
                    f"got {tuple(clip.shape)} (clip {index}{video})."
                )
            if clip.shape != clips[0].shape:
                raise ValueError(
                    "AffectDataPreprocessor: all clips of a batch must have one [C, T, H, W], got "
                    f"{tuple(clips[0].shape)} and {tuple(clip.shape)} (clip {index}{video}); "
                    "use one clip_len and image size, or batch_size=1."
                )
