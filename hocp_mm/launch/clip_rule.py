"""How a trained network wants to be fed: crop, clip length and windows, taken from its config."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config

from hocp_mm.datasets.transforms import (
    CenterCropClip,
    LoadFaceClip,
    PackAffectInputs,
    ResizeClip,
    SampleClip,
)
from hocp_mm.errors import CheckpointError
from hocp_mm.launch.runner import is_type

# Not the training pipeline: its random crops do not say what the network should see.
LOADERS = ("test_dataloader", "val_dataloader")
_MOST_PIXELS = 2**27  # of a clip: 32 frames of 2048 x 2048 pixels; the config may come from a stranger's checkpoint
_LARGEST, _WIDEST = 2**16, 16  # numbers that say how a clip is cut; faces in one crop, side by side
_SLOWEST = 1e-3  # frames per second
_LONGEST_SECONDS, _USUAL_RATE = 60, 25  # of a window: the crops of as long a time are held
_LONGEST_SMOOTH = 10 * 25  # of an average, in 25ths of a second: whole pictures wait for half of it
_STEPS = {step.__name__: step for step in (SampleClip, LoadFaceClip, ResizeClip, CenterCropClip, PackAffectInputs)}


@dataclass(frozen=True)
class ClipRule:
    """Crop and window settings shared by evaluation and inference.

    Attributes:
        size: Side of the crops, pixels.
        margin: Side of the crop in units of the longer side of the smoothed landmark box.
        smooth: Window of the moving average of the boxes, in 25ths of a second.
        clip_len: Frames of a window.
        frame_interval: Distance of neighbouring frames in a window, whatever the rate; 1 where ``fps`` is given.
        stride: Sampled frames from one window to the next.
        after: Transforms of the crops that follow in the pipeline, such as ``CenterCropClip``.
        fps: Frames per second of a window, which is the rate of training; None if the config does not say it.
        slowest: Frames per second of the slowest video that training showed.
    """

    size: int
    margin: float
    smooth: int
    clip_len: int
    frame_interval: int
    stride: int
    after: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = ()
    fps: float | None = None
    slowest: float | None = None

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of what the network sees, pixels."""
        clip: dict[str, Any] = {"imgs": np.zeros((1, self.size, self.size, 3), np.uint8)}
        for transform in self.after:
            clip = transform(clip)
        _, height, width, _ = clip["imgs"].shape
        return height, width

    def seconds(self, fps: float) -> float:
        """Return how long a window lasts in a video of ``fps`` frames per second."""
        return self.clip_len * self.frame_interval / (self.fps or fps)

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
            dataset = next((d for d in config_dicts(cfg.get(name)) if d.get("pipeline")), {"pipeline": ()})
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
            for what, number in [("clip_len", sample.clip_len), ("frame_interval", interval), ("stride", stride),
                                 ("smooth", load.smooth), *(("size", size) for size in sizes)]:  # fmt: skip
                most = _LONGEST_SMOOTH if what == "smooth" else _LARGEST
                if type(number) is not int or not 0 < number <= most:
                    raise CheckpointError(
                        f"{source}: the test pipeline's {what} must be a whole number from 1 to {most}, got "
                        f"{number!r:.100}."
                    )
            for before, size, step in zip(sizes, sizes[1:], after, strict=False):
                if isinstance(step, CenterCropClip) and size > before:
                    raise CheckpointError(f"{source}: a crop of {size} pixels must fit in frames of {before}.")
            if not sample.clip_len * max(sizes) ** 2 <= _MOST_PIXELS:
                raise CheckpointError(
                    f"{source}: a clip may have at most {_MOST_PIXELS} pixels, got {sample.clip_len} frames of size "
                    f"{max(sizes)}."
                )
            if not 0 < load.margin <= _WIDEST:
                raise CheckpointError(f"{source}: margin must be at most {_WIDEST}, got {load.margin!r:.100}.")
            if sample.fps is not None and not _SLOWEST <= sample.fps <= 1 / _SLOWEST:
                raise CheckpointError(
                    f"{source}: fps must lie between {_SLOWEST:g} and {1 / _SLOWEST:g}, got {sample.fps!r:.100}."
                )
            seconds = sample.clip_len * interval / (sample.fps or _USUAL_RATE)
            if seconds > _LONGEST_SECONDS:
                raise CheckpointError(
                    f"{source}: a window must last {_LONGEST_SECONDS} seconds at most, got {seconds:.3g} (clip_len "
                    f"{sample.clip_len})."
                )
            slowest = None if sample.fps is None else sample.fps / _held(cfg)
            return cls(
                load.size, load.margin, load.smooth, sample.clip_len, interval, stride, after, sample.fps, slowest
            )
        raise CheckpointError(
            f"{source}: the config must have a data loader with LoadFaceClip and SampleClip, which say how the face is "
            f"cropped; looked at {', '.join(LOADERS)}."
        )


def _held(cfg: Mapping[str, Any] | Config) -> int:
    """Return how many frames training made one of, at most (see `SampleClip`)."""
    steps = [step for step in config_dicts(cfg.get("train_dataloader")) if is_type(step.get("type"), "SampleClip")]
    factors = [factor for step in steps if isinstance(own := step.get("hold"), list | tuple) for factor in own]
    return max((factor for factor in factors if type(factor) is int and 1 <= factor <= _LARGEST), default=1)


def _build_step(step: Mapping[str, Any], source: str) -> Any:
    """Build a transform; what the config leaves out then has the default of its class."""
    name = next((name for name in _STEPS if is_type(step["type"], name)), None)
    if name is None:
        raise CheckpointError(
            f"{source}: the test pipeline may have {', '.join(_STEPS)}, which inference repeats, got {step['type']!r}."
        )
    # A cache of crops would be of no use here, and a video is always decoded in order.
    return _STEPS[name](**{key: value for key, value in step.items() if key not in ("type", "cache_mb", "decoder")})


def config_dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping inside a config, outermost first (data sets may be wrapped)."""
    if isinstance(value, Mapping):
        yield value
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from config_dicts(item)
