"""Transforms from a video record to model inputs: sampling, loading, augmentation, packing."""

from hocp_mm.datasets.transforms.augment import (
    CenterCropClip,
    ClipColorJitter,
    ClipFlip,
    RandomResizedClipCrop,
    ResizeClip,
)
from hocp_mm.datasets.transforms.label_delay import CompensateLabelDelay, advance_labels, delay_predictions
from hocp_mm.datasets.transforms.loading import LoadFaceClip
from hocp_mm.datasets.transforms.packing import PackAffectInputs
from hocp_mm.datasets.transforms.sampling import SampleClip, clip_frames, clip_ticks, window_starts

__all__ = [
    "CenterCropClip",
    "ClipColorJitter",
    "ClipFlip",
    "CompensateLabelDelay",
    "LoadFaceClip",
    "PackAffectInputs",
    "RandomResizedClipCrop",
    "ResizeClip",
    "SampleClip",
    "advance_labels",
    "clip_frames",
    "clip_ticks",
    "delay_predictions",
    "window_starts",
]
