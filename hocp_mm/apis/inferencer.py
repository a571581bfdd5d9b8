"""`AffectInferencer`: a trained network over whole videos, in sliding windows, in one pass."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor

from hocp_mm.apis.face_track import Faces, find_track
from hocp_mm.apis.known_networks import read_known_network
from hocp_mm.apis.people import SMOOTH_SECONDS, People, WatchLog, choose_people
from hocp_mm.apis.recorded_config import bounded_building, count_numbers, read_recorded_config
from hocp_mm.apis.sources import Input, Source, open_source, unopened
from hocp_mm.apis.watching import Batches, Clip, Watched, Watching, watch_all, watching_windows
from hocp_mm.checkpoints import read_checkpoint, read_safetensors_notes, reading_once, unwrap_state_dict
from hocp_mm.checkpoints.affect_networks import AffectNetwork
from hocp_mm.datasets import FaceDetector, FaceTrack, make_detector
from hocp_mm.datasets.affectnet.rows import Classes, expression_names
from hocp_mm.datasets.faces.detection import DETECTORS, Progress
from hocp_mm.datasets.faces.following import Face, Followed, Frame, follow_faces
from hocp_mm.errors import HOCPError
from hocp_mm.launch import LOADERS, ClipRule, build_model, config_dicts, is_type, load_config, load_weights
from hocp_mm.structures import AffectDataSample, AffectTimeline
from hocp_mm.system.inputs import find_inputs
from hocp_mm.system.parallel import read_ahead
from hocp_mm.system.refusals import LONGEST_VALUE, shorten, visible

if TYPE_CHECKING:
    from mmengine.model import BaseModel

_AHEAD = 4  # frames
_SAME_RATE = 0.98  # a rate that is said with two digits
_Event = tuple[int, Source, Watched | HOCPError | None]


@dataclass(frozen=True)
class _Options:
    """How to watch: the arguments of `AffectInferencer.watch_all`, checked."""

    faces: Any
    stride: int
    batch_size: int
    flip: bool
    progress: Progress | None
    person: People
    both_views: bool
    fps: float | None
    seconds: float | None


class AffectInferencer:
    """Predict valence and arousal of every frame of videos, pictures, arrays and cameras.

    Crop, clip length and windows come from the config the network was trained with, and windows are averaged by the
    class that the metric uses, so a video gets here what it gets in ``hocp test``.

    Args:
        checkpoint: Weights of a recognizer of this package, as ``hocp train`` saves them, or the file of a known
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
        expressions: Names of the expressions that it tells, in the order of its scores; empty for none.
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
        layer = getattr(getattr(self.model, "head", None), "classify", None)
        self.expressions = () if layer is None else _expressions(self.cfg, layer.out_features)
        self._told = False

    def predict(
        self,
        source: Input | Source,
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
        person: People = "largest",
        *,
        fps: float | None = None,
        seconds: float | None = None,
        smooth: float = SMOOTH_SECONDS,
    ) -> AffectTimeline:
        """Run the network over a video, and return the affect of one person at a time.

        Args:
            source: What to watch (see `open_source`): a video, a picture, an array, an iterator of frames, a camera.
            faces: See `watch`.
            stride: See `watch`.
            batch_size: See `watch`.
            flip: See `watch`.
            progress: See `watch`.
            person: Whom to watch (see `choose_people`), one at a time.
            fps: See `watch`.
            seconds: See `watch`.
            smooth: Standard deviation of the Gaussian of the smoothed values, in seconds (see `smooth_over_time`).

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
        source = open_source(source, fps)
        log = self.new_log(source, smooth)
        log.fill(self.watch(source, faces, stride, batch_size, flip, progress, person, seconds=seconds))
        return log.timeline(told_apart=_tells_apart(faces))

    def predict_people(
        self,
        source: Input | Source,
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
        *,
        fps: float | None = None,
        seconds: float | None = None,
        smooth: float = SMOOTH_SECONDS,
    ) -> dict[int, AffectTimeline]:
        """Return the affect of everybody in a video, by number in the order of appearance; arguments as in `predict`.

        Returns:
            A timeline of those frames in which the person is.
        """
        source = open_source(source, fps)
        log = self.new_log(source, smooth)
        log.fill(self.watch(source, faces, stride, batch_size, flip, progress, "all", seconds=seconds))
        return log.timelines()

    def predict_all(
        self,
        sources: Iterable[Input | Source],
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
        person: People = "largest",
        *,
        fps: float | None = None,
        seconds: float | None = None,
        smooth: float = SMOOTH_SECONDS,
    ) -> Iterator[tuple[Input | Source, AffectTimeline | dict[int, AffectTimeline] | HOCPError]]:
        """Run the network over several videos, one after the other, in batches that span them.

        Args:
            sources: Files, patterns and folders (see `find_inputs`), and all that `predict` takes.
            faces: As in `predict`; a given face is that of all of them.
            stride: As in `predict`.
            batch_size: As in `predict`.
            flip: As in `predict`.
            progress: Called as ``progress(stage, done, total)`` in frames of all videos so far.
            person: As in `predict`, or ``"all"``.
            fps: As in `predict`, of all that need it.
            seconds: As in `predict`, of each.
            smooth: As in `predict`.

        Yields:
            Each video with its timeline, or with the timelines of all people by number; or with the error that ended
            it, which costs no other.

        Raises:
            MissingDataError: If a pattern matches no file, or a folder holds none.
            ValueError: As `predict` does.
        """
        wanted = list(expand(sources))
        choose_people(person)
        watched = self.watch_all(wanted, faces, stride, batch_size, flip, progress, person, fps=fps, seconds=seconds)
        with closing(watched):
            for given, (source, frames) in zip(wanted, watched, strict=True):
                outcome: AffectTimeline | dict[int, AffectTimeline] | HOCPError
                try:
                    log = self.new_log(source, smooth)
                    for frame in frames:
                        log.add(frame)
                    outcome = log.timelines() if person == "all" else log.timeline(told_apart=_tells_apart(faces))
                except HOCPError as error:
                    outcome = error
                yield given, outcome

    def new_log(self, source: Source, smooth: float = SMOOTH_SECONDS) -> WatchLog:
        """Return an empty log of what will be seen in a source, which makes timelines of it.

        Args:
            source: See `open_source`.
            smooth: As in `predict`.
        """
        return WatchLog(source.path or source.name, source.info, smooth=smooth, expressions=self.expressions)

    def watch(
        self,
        source: Input | Source,
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
        person: People = "largest",
        both_views: bool = False,
        *,
        fps: float | None = None,
        seconds: float | None = None,
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
            source: What to watch (see `open_source`).
            faces: Name of a detector (see `make_detector`), or one; or where the face is, see `track_faces`; or a track
                that it returned. A face that is given is believed to be one person's, whatever is cut.
            stride: Moments from one window to the next, 1 (smoothest) to the clip length (fastest); the config's
                test windows by default.
            batch_size: Windows per forward pass.
            flip: Average with the mirror image even if the config's ``test_cfg`` does not say so. A network that does
                it already is not asked twice.
            progress: Called as ``progress(stage, done, total)`` in frames; the total is 0 where nobody knows it.
            person: Whom to watch (see `choose_people`).
            both_views: Give each frame four values in the place of two: valence and arousal of the picture, then those
                of its mirror image.
            fps: Frames per second, of an array or of frames without times.
            seconds: End after so much of the film, as a camera never does.

        Returns:
            A generator of all frames, in order; close it if you leave it early, as a thread of its own reads ahead.

        Raises:
            MissingDataError: If there is no such video.
            DataError: If the video cannot be read to its end, or has no frame rate.
            CheckpointError: If the network predicts NaN.
            ValueError: If ``stride`` or ``batch_size`` is out of range, a track has another length, or as `open_source`
                does.
        """
        opened = open_source(source, fps)
        options = self._options(faces, stride, batch_size, flip, progress, person, both_views, None, seconds)
        return _only(self._events([opened], options, set()))

    def watch_all(
        self,
        sources: Iterable[Input | Source],
        faces: Faces | FaceTrack = "auto",
        stride: int | None = None,
        batch_size: int = 8,
        flip: bool = False,
        progress: Progress | None = None,
        person: People = "largest",
        both_views: bool = False,
        *,
        fps: float | None = None,
        seconds: float | None = None,
    ) -> Generator[tuple[Source, Iterator[Watched]], None, None]:
        """Return several videos, one after the other, each with its frames as `watch` returns them.

        Windows of one video and the next go through the network together. As with `itertools.groupby`, frames of a
        video that is left are dropped, and the rest of it is not read.

        Args:
            sources: Single ones (see `open_source`; `expand` makes them of patterns and folders). Each is opened when
                its turn comes.
            faces: As in `watch`, for all.
            stride: As in `watch`.
            batch_size: As in `watch`.
            flip: As in `watch`.
            progress: As in `watch`, in frames of all videos; the total is that of those that are open already.
            person: As in `watch`.
            both_views: As in `watch`.
            fps: As in `watch`, of all that need it.
            seconds: As in `watch`, of each.

        Returns:
            A generator; close it if you leave it early. What is wrong with a video is raised by its own frames, as an
            `HOCPError`, and costs no other. One that cannot be opened comes with what is known of it: its name.

        Raises:
            ValueError: As `watch` does.
        """
        options = self._options(faces, stride, batch_size, flip, progress, person, both_views, fps, seconds)
        listed, left = list(sources), set[int]()
        return _each(len(listed), self._events(listed, options, left), left)

    def _options(
        self,
        faces: Any,
        stride: int | None,
        batch_size: int,
        flip: bool,
        progress: Progress | None,
        person: People,
        both_views: bool,
        fps: float | None,
        seconds: float | None,
    ) -> "_Options":
        """Check what can be checked before a frame is read, and make the detector."""
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}.")
        stride = self.rule.stride if stride is None else stride
        if not 1 <= stride <= self.rule.clip_len:
            raise ValueError(
                f"predict: stride must lie between 1 and the clip length, got {stride} > {self.rule.clip_len}."
            )
        choose_people(person)
        faces = make_detector(faces) if isinstance(faces, str) and faces in DETECTORS else faces
        return _Options(faces, stride, batch_size, flip, progress, person, both_views, fps, seconds)

    def _events(
        self, sources: Sequence[Input | Source], options: "_Options", left: set[int]
    ) -> Generator[_Event, None, None]:
        """Yield number and source with a frame, at its end with None or with what ended it."""
        batches = Batches(
            lambda clips: self.predict_clips(clips, options.flip, options.both_views),
            options.batch_size,
            str(self.checkpoint),
        )
        sources = [one.until(options.seconds) if isinstance(one, Source) else one for one in sources]
        counter = _counter(options.progress, sum(one.info.num_frames for one in sources if isinstance(one, Source)))
        opened: list[Source] = []

        def videos() -> Generator[tuple[Iterable[Followed], Watching], None, None]:
            for given in sources:
                followed: Generator[Followed, None, None] | None = None
                error = None
                try:
                    own_rate = isinstance(given, str | Path | int | np.integer)
                    source = open_source(given, None if own_rate else options.fps)
                    source = source if source is given else source.until(options.seconds)
                    self._tell_rate(source)
                    followed = self._followed(source, options.faces, counter)
                except HOCPError as found:
                    error, source = found, unopened(given)
                opened.append(source)
                aspect = source.info.pixel_aspect
                watching = watching_windows(
                    choose_people(options.person),
                    batches,
                    self.rule,
                    options.stride,
                    source.rate,
                    aspect,
                    source.where,
                    views=1 + options.both_views,
                )
                if followed is None:
                    watching.fail(error)
                    yield (), watching
                else:
                    with closing(followed):
                        yield followed, watching

        read = videos()
        events = watch_all(read, batches, left)
        with closing(read), closing(events):  # with the thread that reads, whatever ends the loop
            for number, item in events:
                yield number, opened[number], item

    def _followed(self, source: Source, faces: Any, counter: Callable[[], None]) -> Generator[Followed, None, None]:
        """Return the frames of a source with the faces that are found in them, or given."""
        bridge = self.rule.seconds(source.rate)
        if not callable(faces):
            return _given(source, faces, bridge, counter)
        detector = cast("FaceDetector", faces)
        frames = follow_faces(_counted(source, counter), detector, bridge, source.info.pixel_aspect)
        return read_ahead(frames, _AHEAD)  # decoding and detection run beside the network

    def _tell_rate(self, source: Source) -> None:
        """Warn of a video that is slower than all that training showed, or where nobody knows."""
        info = source.info
        if self.rule.clip_len == 1 or info.num_frames == 1:
            return  # no motion is seen
        if self.rule.fps is None and not self._told:
            self._told = True
            text = (
                f"{self.checkpoint}: its config does not say at how many frames per second it was trained "
                f"(SampleClip(fps=…)); it is shown frame after frame, {info.fps:.3g} a second in {source.where}."
            )
            print_log(visible(text), logger="current", level=logging.WARNING)
        tell_slow(self.rule, source.rate, source.where)

    @torch.inference_mode()
    def predict_clips(self, clips: Sequence[Clip], flip: bool, both_views: bool) -> NDArray[np.float32]:
        """Run the network on windows of crops.

        Args:
            clips: RGB uint8 ``[T, S, S, 3]`` each, of one shape.
            flip: Average with the mirror image.
            both_views: Return what is said of the mirror image behind what is said of the clip.

        Returns:
            ``[B, T, 2]``, or ``[B, T, 4]`` for both views; probabilities of expressions behind them.
        """
        inputs = [torch.from_numpy(np.ascontiguousarray(clip.transpose(3, 0, 1, 2))) for clip in clips]
        views: list[list[Tensor]] = [inputs]
        if both_views or (flip and not getattr(self.model, "flip", False)):
            views.append([clip.flip(-1) for clip in inputs])
        found, scores = [], []
        for view in views:
            samples = [
                AffectDataSample.from_clip(video="", frame_inds=range(clip.shape[1]), num_frames=clip.shape[1], fps=0.0)
                for clip in view
            ]
            done = self.model.test_step({"inputs": view, "data_samples": samples})
            found.append(torch.stack([sample.pred_affect.float().cpu() for sample in done]))
            if "pred_scores" in done[0]:
                scores.append(torch.stack([sample.pred_scores.float().cpu() for sample in done]))
        affect = torch.cat(found, dim=-1) if both_views else torch.stack(found).mean(0)
        return (torch.cat([affect, torch.stack(scores).mean(0)], dim=-1) if scores else affect).numpy()


def tell_slow(rule: ClipRule, rate: float, what: str) -> None:
    """Warn of frames that come more slowly than all that training showed."""
    if rule.clip_len > 1 and rule.slowest is not None and rate < _SAME_RATE * rule.slowest:
        text = (
            f"{what}: has {rate:.3g} frames per second, training showed no less than {rule.slowest:.3g}: "
            "what moves looks faster than it is, and arousal may be wrong."
        )
        print_log(visible(text), logger="current", level=logging.WARNING)


def expand(sources: Iterable[Input | Source]) -> Iterator[Input | Source]:
    """Yield single inputs: files in the place of patterns and folders, all else as it is (see `find_inputs`)."""
    for source in sources:
        yield from find_inputs([source]) if isinstance(source, str | Path) else [source]


def _tells_apart(faces: Any) -> bool:
    """Tell whether faces are found, by somebody who tells people from one another."""
    return callable(faces) or (isinstance(faces, str) and faces in DETECTORS)


def _only(events: Generator[_Event, None, None]) -> Generator[Watched, None, None]:
    """Yield the frames of the only video."""
    with closing(events):
        for _, _, item in events:
            if isinstance(item, HOCPError):
                raise item
            if item is not None:
                yield item


def _each(
    count: int, events: Generator[_Event, None, None], left: set[int]
) -> Generator[tuple[Source, Iterator[Watched]], None, None]:
    """Yield each video with its frames; the number of one that is left early goes into ``left``."""
    ended: set[int] = set()

    def frames(first: _Event) -> Iterator[Watched]:
        for number, _, item in itertools.chain([first], events):
            if not isinstance(item, Watched):
                ended.add(number)
                if item is not None:
                    raise item
                return
            yield item

    with closing(events):
        for number in range(count):
            first = next(event for event in events if event[0] == number)  # past what is left of the one before
            yield first[1], frames(first)
            if number not in ended:
                left.add(number)


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return what is called for every frame of whatever video."""
    if progress is None:
        return lambda: None
    done = itertools.count(1)
    return lambda: progress("reading affect", next(done), total)


def _counted(source: Source, counter: Callable[[], None]) -> Iterator[Frame]:
    with closing(source.frames()) as frames:
        for frame in frames:
            counter()
            yield frame


def _given(source: Source, faces: Any, bridge: float, counter: Callable[[], None]) -> Generator[Followed, None, None]:
    """Return frames with the one face of a track, but where it is out of sight for more than ``bridge`` seconds.

    Raises:
        ValueError: If a track has another length, or there are places for frames that nobody has counted.
    """
    times = source.times
    if times is None:  # one place for all
        if isinstance(faces, FaceTrack) or str(faces).lower().endswith(".zip"):
            raise ValueError(f"predict: a track needs a video whose frames are counted, got {source.where}.")
        track = find_track(source.where, faces, replace(source.info, num_frames=1))
        shown = track.face_found
    else:
        info = replace(source.info, num_frames=len(times))
        track = faces if isinstance(faces, FaceTrack) else find_track(source.where, faces, info)
        if len(track.face_found) != len(times):
            raise ValueError(
                f"predict: the track must have one row per frame, got {len(track.face_found)} rows for "
                f"{len(times)} frames ({source.where})."
            )
        shown = _shown(track.face_found, times, bridge)

    def follow() -> Generator[Followed, None, None]:
        with closing(_counted(source, counter)) as frames:  # pyright: ignore[reportArgumentType] - a generator
            for frame in frames:
                row = 0 if times is None else frame.number
                box = None if track.boxes is None else track.boxes[row]
                faces = [Face(1, box, bool(track.face_found[row]))] if shown[row] else []
                yield Followed(frame, tuple(faces), False)

    return follow()


def _shown(found: NDArray[np.bool_], times: NDArray[np.float64], bridge: float) -> NDArray[np.bool_]:
    """Tell in which frames a face is in sight, or out of it for no longer than may be bridged."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ~found, [False])).astype(np.int8)))
    shown = np.ones(len(found), dtype=np.bool_)
    for start, stop in edges.reshape(-1, 2).tolist():
        # The last frame is shown for as long as the one before it.
        end = times[stop] if stop < len(times) else 2 * times[-1] - times[max(0, len(times) - 2)]
        shown[start:stop] = end - times[start] <= bridge * (1 + 1e-6)
    return shown


def _expressions(cfg: Config, count: int) -> tuple[str, ...]:
    """Return the names of the expressions that a network tells, or their numbers where its config does not say them."""
    for name in (*LOADERS, "train_dataloader"):
        for dataset in config_dicts(cfg.get(name)):
            told = dataset.get("metainfo")
            names = told.get("expressions") if isinstance(told, Mapping) else None
            if names is None and (classes := _classes(dataset)) is not None:
                names = expression_names(classes)
            if isinstance(names, list | tuple) and len(names) == count and all(isinstance(one, str) for one in names):
                return tuple(shorten(visible(one), LONGEST_VALUE) for one in names)
    return tuple(map(str, range(count)))


def _classes(dataset: Mapping[str, Any]) -> Any:
    """Return the choice of AffectNet's classes of a data set, or of a store of it; None for others."""
    raw = dataset.get("expected")
    if isinstance(raw, Mapping) and raw.get("dataset") == "AffectNetDataset":
        dataset = raw
    elif not is_type(dataset.get("type"), "AffectNetDataset"):
        return None
    classes = dataset.get("classes", 8)
    return classes if classes in get_args(Classes) else None


def _recorded_config(checkpoint: Path) -> tuple[Config, AbstractContextManager[None]] | None:
    """Return the config in a checkpoint, if there is one, and the bounds within which its network may be built."""
    content = read_checkpoint(checkpoint)
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, dict) else read_safetensors_notes(checkpoint).get("cfg")
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
