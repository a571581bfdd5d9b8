"""How a trained network wants to be fed: crop, clip length and windows, taken from its config."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from hocp_mm.datasets.faces.crops import Crops
from hocp_mm.datasets.media.frames import Frames
from hocp_mm.datasets.transforms import (
    CenterCropClip,
    LoadFaceClip,
    PackAffectInputs,
    ResizeClip,
    SampleClip,
    clip_frames,
    window_starts,
)
from hocp_mm.errors import CheckpointError
from hocp_mm.launch.runner import is_type

# Not the training pipeline: its random crops do not say what the network should see.
LOADERS = ("test_dataloader", "val_dataloader")
_MOST_PIXELS = 2**27  # of a clip: 32 frames of 2048 x 2048 pixels; the config may come from a stranger's checkpoint
_LARGEST, _WIDEST = 2**16, 16  # numbers that say how a clip is cut; faces in one crop, side by side
_STEPS = {step.__name__: step for step in (SampleClip, LoadFaceClip, ResizeClip, CenterCropClip, PackAffectInputs)}


@dataclass(frozen=True)
class ClipRule:
    """Crop and window settings shared by evaluation and inference.

    Attributes:
        size: Side of the crops, pixels.
        margin: Side of the crop in units of the longer side of the smoothed landmark box.
        smooth: Window of the moving average of the boxes, frames.
        clip_len: Frames of a window.
        frame_interval: Distance of neighbouring frames in a window.
        stride: Sampled frames from one window to the next.
        after: Transforms of the crops that follow in the pipeline, such as ``CenterCropClip``.
    """

    size: int
    margin: float
    smooth: int
    clip_len: int
    frame_interval: int
    stride: int
    after: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = ()

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any] | Config, source: str) -> "ClipRule":
        """Read the pipeline and the ``windows`` of the data set for test, or else for validation.

        Args:
            cfg: Config with a test or validation data loader.
            source: Where it comes from, for the error text.

        Returns:
            The settings; without ``windows`` half of each window overlaps the next.

        Raises:
            CheckpointError: If no data loader has both transforms, or a step is not known here.
        """
        for name in LOADERS:
            dataset = next((d for d in _dicts(cfg.get(name)) if d.get("pipeline")), {"pipeline": ()})
            try:
                steps = [_build_step(step, source) for step in dataset["pipeline"]]
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(
                    f"{source}: the config's {name} has a step that cannot be built ({error!s:.200})."
                ) from error
            load = next((step for step in steps if isinstance(step, LoadFaceClip)), None)
            sample = next((step for step in steps if isinstance(step, SampleClip)), None)
            if load is None or sample is None:
                continue
            windows = dataset.get("windows") or {}
            stride: Any = windows.get("stride", max(1, sample.clip_len // 2)) if isinstance(windows, Mapping) else None
            after = tuple(step for step in steps if isinstance(step, ResizeClip | CenterCropClip))
            interval, sizes = sample.frame_interval, [load.size, *(step.size for step in after)]
            for what, number in {"clip_len": sample.clip_len, "frame_interval": interval, "stride": stride,
                                 "smooth": load.smooth, "size": max(sizes, key=float)}.items():  # fmt: skip
                if type(number) is not int or not 0 < number <= _LARGEST:
                    raise CheckpointError(
                        f"{source}: the test pipeline's {what} must be a whole number from 1 to {_LARGEST}, got "
                        f"{number!r:.100}."
                    )
            if not sample.clip_len * max(sizes) ** 2 <= _MOST_PIXELS:
                raise CheckpointError(
                    f"{source}: a clip may have at most {_MOST_PIXELS} pixels, got {sample.clip_len} frames of size "
                    f"{max(sizes)}."
                )
            if not 0 < load.margin <= _WIDEST:
                raise CheckpointError(f"{source}: margin must be at most {_WIDEST}, got {load.margin!r:.100}.")
            return cls(load.size, load.margin, load.smooth, sample.clip_len, interval, stride, after)
        raise CheckpointError(
            f"{source}: the config must have a data loader with LoadFaceClip and SampleClip, which say how the face is "
            f"cropped; looked at {', '.join(LOADERS)}."
        )

    def crops(self, frames: Frames, boxes: NDArray[np.float32] | None, pixel_aspect: float = 1.0) -> Crops:
        """Return the crops of a video, as ``LoadFaceClip`` cuts them.

        Args:
            frames: The frames.
            boxes: Landmark boxes of the whole video in pixels of the file, ``[F, 4]``, or None for the whole frame.
            pixel_aspect: Width of a pixel over its height.

        Returns:
            The crops.
        """
        return Crops(frames, boxes, self.size, self.margin, self.smooth, pixel_aspect)

    def windows(self, num_frames: int, stride: int | None = None) -> list[NDArray[np.int64]]:
        """Return the frames of every window, -1 for padding; together they cover each frame of the video.

        Args:
            num_frames: Frames of the video.
            stride: Another stride than the rule's, 1 to ``clip_len``.

        Returns:
            Frame numbers, int64 ``[clip_len]`` each.
        """
        step = self.stride if stride is None else stride
        starts = window_starts(num_frames, self.clip_len, step, self.frame_interval)
        return [clip_frames(num_frames, start, self.clip_len, self.frame_interval) for start in starts]


def _build_step(step: Mapping[str, Any], source: str) -> Any:
    """Build a transform; what the config leaves out then has the default of its class."""
    name = next((name for name in _STEPS if is_type(step["type"], name)), None)
    if name is None:
        raise CheckpointError(
            f"{source}: the test pipeline may have {', '.join(_STEPS)}, which inference repeats, got {step['type']!r}."
        )
    # A cache of crops would be of no use here, and a video is always decoded in order.
    return _STEPS[name](**{key: value for key, value in step.items() if key not in ("type", "cache_mb", "decoder")})


def _dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping inside a config, outermost first (data sets may be wrapped)."""
    if isinstance(value, Mapping):
        yield value
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _dicts(item)
