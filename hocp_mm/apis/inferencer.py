"""`AffectInferencer`: a trained network over a whole video, in sliding windows."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from numpy.typing import NDArray
from torch import Tensor

from hocp_mm.apis.face_track import Faces, track_faces
from hocp_mm.apis.recorded_config import bounded_building, count_numbers, read_recorded_config
from hocp_mm.checkpoints import read_checkpoint, reading_once, unwrap_state_dict
from hocp_mm.datasets import FaceTrack, probe_video
from hocp_mm.datasets.faces.detection import Progress
from hocp_mm.datasets.media.frames import frames_of
from hocp_mm.errors import CheckpointError, DataError, HOCPError
from hocp_mm.launch import ClipRule, build_model, load_config, load_weights
from hocp_mm.structures import AffectDataSample, AffectTimeline, WindowAverager


class AffectInferencer:
    """Predict valence and arousal of every frame of a video.

    Crop, clip length and windows come from the config the network was trained with, and windows are averaged by the
    class that the metric uses, so a video gets here what it gets in ``tools/test.py``.

    Args:
        checkpoint: Weights of a recognizer of this package, as ``tools/train.py`` saves them.
        config: Config file; by default the one recorded in the checkpoint, which is parsed, not executed.
        device: Such as ``"cpu"`` or ``"cuda:1"``; by default CUDA where there is one.

    Raises:
        MissingDataError: If the config file does not exist.
        CheckpointError: If the checkpoint cannot be read, records no config, or does not fit the network exactly.
        HOCPError: If there is no such device.

    Attributes:
        cfg: The config.
        rule: Crop and window settings.
        model: The network, in evaluation mode.
        device: Where it runs.
    """

    def __init__(
        self, checkpoint: str | Path, config: str | Path | None = None, device: str | torch.device | None = None
    ) -> None:
        self.checkpoint = Path(checkpoint)
        self.device = _pick_device(device)
        with reading_once():
            if config is None:
                self.cfg, bounds = _recorded_config(self.checkpoint)
            else:
                self.cfg, bounds = load_config(config), contextlib.nullcontext()
            self.rule = ClipRule.from_config(self.cfg, str(self.checkpoint if config is None else config))
            with bounds:
                self.model: BaseModel = build_model(self.cfg)
            load_weights(self.model, self.checkpoint)
        self.model.to(self.device).eval()

    def predict(
        self,
        video: str | Path,
        faces: Faces | FaceTrack = "cascade",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
    ) -> AffectTimeline:
        """Run the network over a video.

        Frames are decoded once for the face (not with a given box) and once for the crops; only the crops of the
        windows at hand are in memory, so the length of the video does not matter. A video shorter than the clip
        is padded by its last frame. Frames are counted, and time is ``frame / fps`` with the average rate: in a
        video of variable rate the frame numbers are exact and the seconds are not.

        Args:
            video: Video file.
            faces: Where the face is, see `track_faces`; or a track that it returned.
            stride: Frames from one window to the next, 1 (smoothest) to the clip length (fastest); the config's
                test windows by default.
            batch_size: Windows per forward pass.
            flip: Average with the mirror image even if the config's ``test_cfg`` does not say so. A network that does
                it already is not asked twice.
            progress: Called as ``progress(stage, done, total)`` in frames.

        Returns:
            One row for every frame, clipped to [-1, 1].

        Raises:
            MissingDataError: If there is no such video.
            DataError: If the video cannot be read to its end, has no frame rate, or shows no face.
            CheckpointError: If the network predicts NaN.
            ValueError: If ``stride`` or ``batch_size`` is out of range, or a track has another length.
        """
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}.")
        info = probe_video(video)
        if not info.fps > 0:
            raise DataError(f"{video}: the file must state its frame rate.")
        windows = self.rule.windows(info.num_frames, stride)
        track = faces if isinstance(faces, FaceTrack) else track_faces(video, faces, progress=progress)
        if len(track.face_found) != info.num_frames:
            raise ValueError(
                f"predict: the track must have one row per frame, got {len(track.face_found)} rows for "
                f"{info.num_frames} frames ({video})."
            )
        crops = self.rule.crops(frames_of(str(video), info.num_frames), track.boxes, info.pixel_aspect)
        meta = {"video": Path(video).stem, "num_frames": info.num_frames, "fps": info.fps}
        averager = WindowAverager()
        stream = cut_windows(crops.read_all(), info.num_frames, self.rule, windows)
        while batch := list(islice(stream, batch_size)):
            for (inds, _), pred in zip(batch, self._predict_batch(batch, meta, flip), strict=True):
                averager.add(inds, pred)
            if progress:
                progress("reading affect", int(max(inds.max() for inds, _ in batch)) + 1, info.num_frames)
        frames, pred = averager.result()
        if not np.isfinite(pred).all():
            raise CheckpointError(f"{self.checkpoint}: the network predicts NaN or infinity; its training diverged.")
        return AffectTimeline(
            meta["video"], info.fps, frames, np.clip(pred, -1, 1), face_found=track.face_found[frames]
        )

    @torch.inference_mode()
    def _predict_batch(
        self, batch: Sequence[tuple[NDArray[np.int64], Tensor]], meta: dict[str, Any], flip: bool
    ) -> list[Tensor]:
        """Return ``[T, 2]`` for each window."""
        views = [[clip for _, clip in batch]]
        if flip and not getattr(self.model, "flip", False):
            views.append([clip.flip(-1) for _, clip in batch])
        sums = [torch.zeros(()) for _ in batch]
        for clips in views:
            samples = [AffectDataSample.from_clip(frame_inds=inds, **meta) for inds, _ in batch]
            done = self.model.test_step({"inputs": clips, "data_samples": samples})
            sums = [total + sample.pred_affect.float().cpu() for total, sample in zip(sums, done, strict=True)]
        return [total / len(views) for total in sums]


def cut_windows(
    frames: Iterable[tuple[int, NDArray[np.uint8]]],
    num_frames: int,
    rule: ClipRule,
    windows: Sequence[NDArray[np.int64]],
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield the crops of each window while the video goes by, holding only crops that are still needed.

    Args:
        frames: Number and crop of every frame of the video, in order, RGB uint8 ``[S, S, 3]``.
        num_frames: Frames of the video.
        rule: What is done to the crops.
        windows: Frame numbers ``[T]`` of each window; -1 repeats the last frame of the video.

    Yields:
        Frame numbers, and crops uint8 ``[3, T, S, S]``, in the order in which the windows end.
    """
    needs = [np.where(inds < 0, num_frames - 1, inds) for inds in windows]
    order = sorted(range(len(windows)), key=lambda k: int(needs[k].max()))
    # oldest[i]: first frame that window order[i] or any later one still needs.
    oldest = np.minimum.accumulate([needs[k].min() for k in reversed(order)])[::-1]
    crops: dict[int, NDArray[np.uint8]] = {}
    done = 0
    for index, crop in frames:
        if done == len(order):
            return
        if index >= oldest[done]:
            crops[index] = crop
        while done < len(order) and needs[order[done]].max() <= index:
            clip = {"imgs": np.stack([crops[int(i)] for i in needs[order[done]]])}  # [T, size, size, 3]
            for transform in rule.after:
                clip = transform(clip)
            yield windows[order[done]], torch.from_numpy(np.ascontiguousarray(clip["imgs"].transpose(3, 0, 1, 2)))
            done += 1
            for old in [i for i in crops if done == len(order) or i < oldest[done]]:
                del crops[old]


def _recorded_config(checkpoint: Path) -> tuple[Config, AbstractContextManager[None]]:
    """Return the config in a checkpoint, and the bounds within which its network may be built."""
    content = read_checkpoint(checkpoint)
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, dict) else None
    if not isinstance(text, str):
        raise CheckpointError(
            f"{checkpoint}: the checkpoint records no config (meta['cfg']); give the config it was trained with."
        )
    numbers = count_numbers(unwrap_state_dict(content, checkpoint))
    return read_recorded_config(text, str(checkpoint)), bounded_building(numbers, str(checkpoint))


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = (str(error).strip().splitlines() or ["unknown"])[0].rstrip(".")
        raise HOCPError(f"device: must be one that torch can use here, got {str(device)!r} ({reason}).") from error
    return torch.device(device)
