"""`AffectInferencer`: a trained network over a whole video, in sliding windows, in one pass."""

import contextlib
import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor

from hocp_mm.apis.face_track import Faces, find_track
from hocp_mm.apis.known_networks import read_known_network
from hocp_mm.apis.people import People, WatchLog, choose_people
from hocp_mm.apis.recorded_config import bounded_building, count_numbers, read_recorded_config
from hocp_mm.apis.watching import Clip, Watched, watch
from hocp_mm.checkpoints import read_checkpoint, reading_once, unwrap_state_dict
from hocp_mm.checkpoints.affect_networks import AffectNetwork
from hocp_mm.datasets import FaceTrack, VideoInfo, iter_frames, make_detector, probe_video
from hocp_mm.datasets.faces.boxes import usual_rate
from hocp_mm.datasets.faces.detection import DETECTORS, Progress
from hocp_mm.datasets.faces.following import Face, Followed, Frame, follow_faces
from hocp_mm.datasets.media.video import uneven_times
from hocp_mm.errors import CheckpointError, DataError, HOCPError
from hocp_mm.launch import ClipRule, build_model, load_config, load_weights
from hocp_mm.structures import AffectDataSample, AffectTimeline
from hocp_mm.system.parallel import read_ahead
from hocp_mm.system.refusals import visible

if TYPE_CHECKING:
    from mmengine.model import BaseModel

_AHEAD = 4  # frames
_SAME_RATE = 0.98  # a rate that is said with two digits


class AffectInferencer:
    """Predict valence and arousal of every frame of a video.

    Crop, clip length and windows come from the config the network was trained with, and windows are averaged by the
    class that the metric uses, so a video gets here what it gets in ``tools/test.py``.

    Args:
        checkpoint: Weights of a recognizer of this package, as ``tools/train.py`` saves them, or the file of a known
            affect network (see `hocp_mm.checkpoints.affect_networks`).
        config: Config file; by default the one recorded in the checkpoint, which is parsed, not executed, or what is
            known of a known network.
        device: Such as ``"cpu"`` or ``"cuda:1"``; by default CUDA where there is one.

    Raises:
        MissingDataError: If the config file does not exist.
        CheckpointError: If the checkpoint cannot be read, records no config and is of no known network with valence
            and arousal, or does not fit the network exactly.
        HOCPError: If there is no such device.

    Attributes:
        cfg: The config.
        rule: Crop and window settings.
        model: The network, in evaluation mode.
        device: Where it runs.
        network: What is known of it, if the checkpoint records no config.
    """

    def __init__(
        self, checkpoint: str | Path, config: str | Path | None = None, device: str | torch.device | None = None
    ) -> None:
        self.checkpoint = Path(checkpoint)
        self.device = _pick_device(device)
        self.network: AffectNetwork | None = None
        bounds: AbstractContextManager[None] = contextlib.nullcontext()
        known: dict[str, Tensor] | None = None
        with reading_once():
            if config is not None:
                self.cfg = load_config(config)
            elif (recorded := _recorded_config(self.checkpoint)) is not None:
                self.cfg, bounds = recorded
            else:
                self.network, self.cfg, known = read_known_network(self.checkpoint)
            self.rule = ClipRule.from_config(self.cfg, str(self.checkpoint if config is None else config))
            with bounds:
                self.model: BaseModel = build_model(self.cfg)
            if known is None:
                load_weights(self.model, self.checkpoint)
            else:
                self.model.load_state_dict(known)
        self.model.to(self.device).eval()
        self._told = False

    def predict(
        self,
        video: str | Path,
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
        person: People = "largest",
    ) -> AffectTimeline:
        """Run the network over a video, and return the affect of one person at a time.

        Args:
            video: Video file.
            faces: See `watch`.
            stride: See `watch`.
            batch_size: See `watch`.
            flip: See `watch`.
            progress: See `watch`.
            person: Whom to watch (see `choose_people`), one at a time.

        Returns:
            One row for every frame, clipped to [-1, 1], NaN where nobody is seen. Where a detector told people apart,
            it says whose face each row is.

        Raises:
            ValueError: If ``person`` is ``"all"`` (see `predict_people`), or as `watch` does.
            NoFaceError: If nobody is seen in any frame; a `DataError`.
            HOCPError: As `watch` does.
        """
        if person == "all":
            raise ValueError("predict: person must be one at a time, got 'all'; predict_people watches all.")
        log = WatchLog(video, probe_video(video))
        log.fill(self.watch(video, faces, stride, batch_size, flip, progress, person))
        return log.timeline(told_apart=callable(faces) or (isinstance(faces, str) and faces in DETECTORS))

    def predict_people(
        self,
        video: str | Path,
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
    ) -> dict[int, AffectTimeline]:
        """Return the affect of everybody in a video, by number in the order of appearance; arguments as in `predict`.

        Returns:
            A timeline of those frames in which the person is.
        """
        log = WatchLog(video, probe_video(video))
        log.fill(self.watch(video, faces, stride, batch_size, flip, progress, "all"))
        return log.timelines()

    def watch(
        self,
        video: str | Path,
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
        person: People = "largest",
        both_views: bool = False,
    ) -> Generator[Watched, None, None]:
        """Return the frames of a video, one after the other, with the affect of those who are watched.

        The video is decoded once. A frame comes out some seconds of film after it went in: two for what must be known
        of its future, and more for a batch to fill, as long as few pictures wait. Only what lies between is in memory,
        so the length of the video does not matter.

        The network sees faces at the rate at which it was trained, if its config says it (``SampleClip(fps=…)``): of a
        faster video the nearest frames, of a slower one frames that are held. What it says between two moments is
        interpolated. Windows cross neither cuts nor gaps in which a face is out of sight, or a picture stands, for
        longer than a window.

        Args:
            video: Video file.
            faces: Name of a detector (see `make_detector`), or one; or where the face is, see `track_faces`; or a track
                that it returned. A face that is given is believed to be one person's, whatever is cut.
            stride: Moments from one window to the next, 1 (smoothest) to the clip length (fastest); the config's
                test windows by default.
            batch_size: Windows per forward pass.
            flip: Average with the mirror image even if the config's ``test_cfg`` does not say so. A network that does
                it already is not asked twice.
            progress: Called as ``progress(stage, done, total)`` in frames.
            person: Whom to watch (see `choose_people`).
            both_views: Give each frame four values in the place of two: valence and arousal of the picture, then those
                of its mirror image.

        Returns:
            A generator of all frames, in order; close it if you leave it early, as a thread of its own reads ahead.

        Raises:
            MissingDataError: If there is no such video.
            DataError: If the video cannot be read to its end, or has no frame rate.
            CheckpointError: If the network predicts NaN.
            ValueError: If ``stride`` or ``batch_size`` is out of range, or a track has another length.
        """
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}.")
        stride = self.rule.stride if stride is None else stride
        if not 1 <= stride <= self.rule.clip_len:
            raise ValueError(
                f"predict: stride must lie between 1 and the clip length, got {stride} > {self.rule.clip_len}."
            )
        info = probe_video(video)
        if not info.fps > 0:
            raise DataError(f"{video}: the file must state its frame rate.")
        rate = usual_rate(info.fps, uneven_times(video, info))
        self._tell_rate(video, info, rate)
        bridge = self.rule.seconds(rate)
        times = _times(video, info)
        frames = _frames(video, times, progress)
        detector = make_detector(faces) if isinstance(faces, str) and faces in DETECTORS else faces
        if callable(detector):
            # Decoding and detection run beside the network.
            followed = read_ahead(follow_faces(frames, detector, bridge, info.pixel_aspect), _AHEAD)
        else:
            track = faces if isinstance(faces, FaceTrack) else find_track(video, faces, info)
            if len(track.face_found) != info.num_frames:
                raise ValueError(
                    f"predict: the track must have one row per frame, got {len(track.face_found)} rows for "
                    f"{info.num_frames} frames ({video})."
                )
            followed = _given(frames, times, track, bridge)
        watched = watch(
            followed,
            choose_people(person),
            lambda clips: self._predict_batch(clips, Path(video).stem, info, flip, both_views),
            self.rule,
            stride,
            rate,
            info.pixel_aspect,
            batch_size,
            str(video),
        )
        return _closing(watched, followed)

    def _tell_rate(self, video: str | Path, info: VideoInfo, rate: float) -> None:
        """Warn of a video that is slower than all that training showed, or where nobody knows."""
        if self.rule.clip_len == 1:
            return  # no motion is seen
        if self.rule.fps is None and info.num_frames > 1 and not self._told:
            self._told = True
            text = (
                f"{self.checkpoint}: its config does not say at how many frames per second it was trained "
                f"(SampleClip(fps=…)); it is shown frame after frame, {info.fps:.3g} a second in {video}."
            )
            print_log(visible(text), logger="current", level=logging.WARNING)
        if info.num_frames > 1:
            tell_slow(self.rule, rate, str(video))

    @torch.inference_mode()
    def _predict_batch(
        self, clips: Sequence[Clip], name: str, info: VideoInfo, flip: bool, both_views: bool
    ) -> NDArray[np.float32]:
        """Return ``[B, T, 2]``, or ``[B, T, 4]`` for both views."""
        inputs = [torch.from_numpy(np.ascontiguousarray(clip.transpose(3, 0, 1, 2))) for clip in clips]
        views: list[list[Tensor]] = [inputs]
        if both_views or (flip and not getattr(self.model, "flip", False)):
            views.append([clip.flip(-1) for clip in inputs])
        meta: dict[str, Any] = {"video": name, "num_frames": info.num_frames, "fps": info.fps}
        found: list[Tensor] = []
        for view in views:
            samples = [AffectDataSample.from_clip(frame_inds=range(clip.shape[1]), **meta) for clip in view]
            done = self.model.test_step({"inputs": view, "data_samples": samples})
            found.append(torch.stack([sample.pred_affect.float().cpu() for sample in done]))
        values = (torch.cat(found, dim=-1) if both_views else torch.stack(found).mean(0)).numpy()
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.checkpoint}: the network predicts NaN or infinity; its training diverged.")
        return values


def tell_slow(rule: ClipRule, rate: float, what: str) -> None:
    """Warn of frames that come more slowly than all that training showed."""
    if rule.clip_len > 1 and rule.slowest is not None and rate < _SAME_RATE * rule.slowest:
        text = (
            f"{what}: has {rate:.3g} frames per second, training showed no less than {rule.slowest:.3g}: "
            "what moves looks faster than it is, and arousal may be wrong."
        )
        print_log(visible(text), logger="current", level=logging.WARNING)


def _times(video: str | Path, info: VideoInfo) -> list[float]:
    """Return when each frame of a video is shown, in seconds."""
    uneven = uneven_times(video, info)
    # Stamps of even frames are rounded, to milliseconds in many files: by them no moment would be a frame's own.
    return (np.arange(info.num_frames) / info.fps if uneven is None else uneven).tolist()


def _frames(video: str | Path, times: Sequence[float], progress: Progress | None) -> Iterator[Frame]:
    """Yield the frames of a video with their times.

    Raises:
        DataError: If there are fewer or more than the file was found to hold.
    """
    number = -1
    for number, picture in enumerate(iter_frames(video)):
        if number >= len(times):
            raise DataError(f"{video}: must have {len(times)} frames, but the stream has more.")
        if progress:
            progress("reading affect", number + 1, len(times))
        yield Frame(number, times[number], picture)
    if number + 1 < len(times):
        raise DataError(f"{video}: must have {len(times)} frames, but the stream ends after {number + 1}.")


def _closing(watched: Iterator[Watched], followed: Generator[Followed, None, None]) -> Generator[Watched, None, None]:
    """Yield what is watched, and end the thread and the file behind it at once, even if an error is kept."""
    with contextlib.closing(followed):
        yield from watched


def _given(
    frames: Iterable[Frame], times: Sequence[float], track: FaceTrack, bridge: float
) -> Generator[Followed, None, None]:
    """Yield frames with the one face of a track, but where it is out of sight for more than ``bridge`` seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ~track.face_found, [False])).astype(np.int8)))
    shown = np.ones(len(track.face_found), dtype=np.bool_)
    for start, stop in edges.reshape(-1, 2).tolist():
        # The last frame is shown for as long as the one before it.
        end = times[stop] if stop < len(times) else 2 * times[-1] - times[max(0, len(times) - 2)]
        shown[start:stop] = end - times[start] <= bridge * (1 + 1e-6)
    for frame in frames:
        box = None if track.boxes is None else track.boxes[frame.number]
        faces = [Face(1, box, bool(track.face_found[frame.number]))] if shown[frame.number] else []
        yield Followed(frame, tuple(faces), False)


def _recorded_config(checkpoint: Path) -> tuple[Config, AbstractContextManager[None]] | None:
    """Return the config in a checkpoint, if there is one, and the bounds within which its network may be built."""
    content = read_checkpoint(checkpoint)
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, dict) else None
    if not isinstance(text, str):
        return None
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
