"""Why a network said of a video what it said: where it looks, how far in time, and which frames moved it.

first reading: windows -> values and maps of each frame -> second reading: film, crops of some windows -> gradients

Windows, crops and moments are those of `AffectInferencer.watch`: maps go through it as more columns beside valence and
arousal, so that they are averaged where windows overlap, interpolated between moments, and absent where nobody is seen.
Of a frame no more is kept than its numbers, and pictures of a few windows.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hocp_mm.analysis.grad_cam import GradCam, at_most, find_layer
from hocp_mm.analysis.moving_frames import MovingFrames, moving_frames
from hocp_mm.analysis.receptive_field import Reach, frame_gradients, reach_of_gradients, reach_of_kernels, shares
from hocp_mm.analysis.temporal_taps import LayerTaps, temporal_taps, write_taps
from hocp_mm.apis.inferencer import AffectInferencer
from hocp_mm.apis.people import People
from hocp_mm.apis.sources import Source
from hocp_mm.apis.watching import Clip, longest_still
from hocp_mm.datasets.faces.crops import crop_frame, square_scale
from hocp_mm.datasets.faces.following import Frame
from hocp_mm.datasets.transforms import CenterCropClip
from hocp_mm.errors import HOCPError, NoFaceError
from hocp_mm.launch import ClipRule
from hocp_mm.system.files import write_rows
from hocp_mm.visualization import FaceMark, OverlayWriter, SheetClip, draw_contact_sheet
from hocp_mm.visualization.explanation_plots import TapsRow, plot_moving, plot_reach, plot_taps
from hocp_mm.visualization.heat import draw_heat, write_label

Progress = Callable[[str, int, int], None]
NAMES = ("valence", "arousal")
_CELLS = 14  # of a map on each side, at most: more would be kept of every frame than a face can show
_SIDE = 32  # pixels of the noise that receptive fields are measured on
_FIELDS = 6  # windows whose gradients are averaged
_SHEET = 8  # frames of the contact sheet
_STRONGEST = 99  # percentile of a map that is drawn as red, or blue, as it gets
_CHANGE_SECONDS = 0.2  # over which a change counts


class Explainer(AffectInferencer):
    """An `AffectInferencer` that tells where it looks: maps of valence and arousal in the place of expressions.

    ``Watched.scores`` of a person are the two maps, valence before arousal, one row of cells after the other
    (:attr:`map_size`), in units of the prediction: what raises it is above 0.

    Args:
        checkpoint: As in `AffectInferencer`.
        config: As in `AffectInferencer`.
        device: As in `AffectInferencer`.
        layer: Regular expression that is found in the name of the layer whose maps are drawn; the last one in the
            order of the network counts. The last map of the backbone by default.

    Attributes:
        layer: Name of the layer.
        map_size: Rows and columns of a map, 14 at most.
        side: Height and width of what the network sees, pixels.

    Raises:
        HOCPError: As `AffectInferencer` does, or if no layer is meant.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        config: str | Path | None = None,
        device: str | torch.device | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__(checkpoint, config, device)
        self.expressions = ()
        self.model.requires_grad_(False)
        self.side = getattr(self.rule.after[-1], "size", self.rule.size) if self.rule.after else self.rule.size
        blank = torch.zeros(1, 3, min(self.rule.clip_len, 2), self.side, self.side, device=self.device)
        self.layer = find_layer(self.model, blank, layer)
        self._cam = GradCam(self.model, self.layer)
        height, width = at_most(self._cam(blank)[1], _CELLS).shape[-2:]
        self.map_size = int(height), int(width)

    def normalised(self, clips: Sequence[Clip]) -> Tensor:
        """Return windows of crops ``[T, S, S, 3]`` as the network takes them, ``[N, 3, T, S, S]``."""
        inputs = [torch.from_numpy(np.ascontiguousarray(clip.transpose(3, 0, 1, 2))) for clip in clips]
        return self.model.data_preprocessor({"inputs": inputs})["inputs"]

    def predict_clips(self, clips: Sequence[Clip], flip: bool, both_views: bool) -> NDArray[np.float32]:
        """Return ``[B, T, 2 + 2 * h * w]``: valence and arousal, then their maps."""
        assert not both_views
        inputs = self.normalised(clips)
        pred, maps = self._cam(inputs)
        if flip or getattr(self.model, "flip", False):
            other, mirrored = self._cam(inputs.flip(-1))
            pred, maps = (pred + other) / 2, (maps + mirrored.flip(-1)) / 2
        maps = at_most(maps, _CELLS)
        return torch.cat([pred, maps.flatten(2)], dim=-1).float().cpu().numpy()

    def field(self) -> tuple[Reach | None, Reach]:
        """Return the receptive field by the kernels, and as gradients measure it.

        That by the kernels is None where a layer is not known, or where gradients reach farther: a layer that they do
        not tell of, such as a pool or attention over time, is in the network.
        """
        side = min(self.side, _SIDE)
        noise = torch.randn(1, 3, 2, side, side, generator=torch.Generator().manual_seed(0)).to(self.device)
        try:
            kernels = reach_of_kernels(self.model, noise)
        except NotImplementedError:
            kernels = None
        window = Reach(self.rule.clip_len, self.rule.clip_len)
        measured = reach_of_gradients(self.model, kernels or window, side=side)
        if kernels is not None and (measured.past > kernels.past or measured.future > kernels.future):
            kernels, measured = None, reach_of_gradients(self.model, window, side=side)
        return kernels, measured


@dataclass
class Seen:
    """What the first reading kept of a video: a row for each frame.

    Attributes:
        times: Seconds, ``[F]``.
        affect: Valence and arousal, ``[F, 2]``; NaN where nobody is seen.
        maps: ``[2, h, w]`` each, or None where nobody is seen.
        squares: What was cut, (x1, y1, x2, y2) in pixels of the file, or None.
        boxes: The face, or None where it is the whole frame, or nobody is seen.
        found: Whether the face was seen, or its place is interpolated.
        runs: Number of the scene of each frame, -1 for none.
    """

    times: list[float] = field(default_factory=list)
    affect: list[NDArray[np.float32]] = field(default_factory=list)
    maps: list[NDArray[np.float32] | None] = field(default_factory=list)
    squares: list[NDArray[np.float32] | None] = field(default_factory=list)
    boxes: list[NDArray[np.float32] | None] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)

    @property
    def with_face(self) -> list[int]:
        """Frames in which somebody is watched."""
        return [number for number, run in enumerate(self.runs) if run >= 0]

    def scale(self) -> NDArray[np.float64]:
        """Return the heat that is drawn as strong as it gets, of valence and arousal ``[2]``."""
        known = np.stack([one for one in self.maps if one is not None])
        strongest = np.percentile(np.abs(known), _STRONGEST, axis=(0, 2, 3))
        return np.maximum(strongest, 1e-12)


def look(
    explainer: Explainer,
    source: Source,
    faces: Any = "auto",
    stride: int | None = None,
    batch_size: int = 8,
    flip: bool = False,
    progress: Progress | None = None,
    person: People = "largest",
) -> Seen:
    """Read a video once, and keep values and maps of one person at a time; arguments as in `AffectInferencer.watch`.

    Returns:
        A row for each frame.

    Raises:
        NoFaceError: If nobody is seen in any frame.
        ValueError: If ``person`` is ``"all"``.
        HOCPError: As `AffectInferencer.watch` does.
    """
    if person == "all":
        raise ValueError("look: person must be one at a time, got 'all'.")
    seen, before, longest = Seen(), -1, longest_still(explainer.rule, source.rate)
    height, width = explainer.map_size
    watched = explainer.watch(source, faces, stride, batch_size, flip, progress, person)
    with closing(watched):
        for item in watched:
            now = next(iter(item.affect), -1)
            stood = bool(seen.times) and item.frame.time - seen.times[-1] > longest
            if now < 0:
                run = -1
            else:
                last = seen.runs[-1] if seen.runs else -1
                goes_on = now == before and last >= 0 and not item.cut and not stood
                run = last if goes_on else max(seen.runs, default=-1) + 1
            face = next((face for face in item.faces if face.person == now), None)
            seen.times.append(item.frame.time)
            seen.runs.append(run)
            seen.affect.append(item.affect.get(now, np.full(2, np.nan, np.float32)))
            seen.maps.append(item.scores[now].reshape(2, height, width) if now in item.scores else None)
            seen.squares.append(item.squares.get(now))
            seen.boxes.append(None if face is None else face.box)
            seen.found.append(face is not None and face.seen)
            before = now
    if not seen.with_face:
        raise NoFaceError(
            f"{source.where}: a face must be seen in some of the frames, got none of {len(seen.times)}. Give the face "
            "with --box x,y,w,h, or take another detector with --faces."
        )
    return seen


def window_around(seen: Seen, number: int, rule: ClipRule) -> tuple[list[int], int]:
    """Lay a window around a frame, on the moments of its scene, moved to lie within it.

    Args:
        seen: The video.
        number: Frame in which somebody is watched.
        rule: How windows are laid.

    Returns:
        Frames of the window, as many as the network takes (of a shorter scene the last one is repeated), and which of
        them stands for the frame.
    """
    run = seen.runs[number]
    first = last = number
    while first > 0 and seen.runs[first - 1] == run:
        first -= 1
    while last + 1 < len(seen.runs) and seen.runs[last + 1] == run:
        last += 1
    if rule.fps is None:
        members = list(range(first + (number - first) % rule.frame_interval, last + 1, rule.frame_interval))
        place = members.index(number)
    else:
        times = np.array(seen.times[first : last + 1])
        gap = times[-1] - times[-2] if len(times) > 1 else 0.0
        count = max(1, math.ceil((times[-1] + gap / 2 - times[0]) * rule.fps - 1e-6))
        moments = times[0] + np.arange(count) / rule.fps
        members = (first + np.abs(times[None] - moments[:, None]).argmin(1)).tolist()
        place = min(round((seen.times[number] - times[0]) * rule.fps), count - 1)
    start = max(0, min(place - rule.clip_len // 2, len(members) - rule.clip_len))
    window = members[start : start + rule.clip_len]
    return [*window, *[window[-1]] * (rule.clip_len - len(window))], place - start


def strongest_changes(seen: Seen) -> list[int]:
    """Return the frames at which valence, and arousal, change most within a scene; one where it is the same."""
    times, affect, runs = np.array(seen.times), np.stack(seen.affect), np.array(seen.runs)
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    reach = max(1, round(_CHANGE_SECONDS / max(gap, 1e-6) / 2))
    change = np.full((len(times), 2), -1.0)
    inner = np.arange(reach, len(times) - reach)
    same = inner[(runs[inner] >= 0) & (runs[inner - reach] == runs[inner]) & (runs[inner + reach] == runs[inner])]
    change[same] = np.abs(affect[same + reach] - affect[same - reach])
    if not len(same):
        return seen.with_face[len(seen.with_face) // 2 :][:1]
    return list(dict.fromkeys(int(change[:, index].argmax()) for index in range(2)))


@dataclass(frozen=True)
class Explanation:
    """What was found about a video and its network.

    Attributes:
        facts: For JSON.
        files: What was written.
        lines: A short summary.
    """

    facts: dict[str, Any]
    files: tuple[Path, ...]
    lines: tuple[str, ...]


def explain(
    explainer: Explainer,
    source: Source,
    place: Path,
    faces: Any = "auto",
    stride: int | None = None,
    batch_size: int = 8,
    flip: bool = False,
    progress: Progress | None = None,
    person: People = "largest",
    *,
    frames: Sequence[int] = (),
    at: Sequence[float] = (),
    film: bool = True,
) -> Explanation:
    """Explain what a network says of a video, in files beside each other.

    Args:
        explainer: The network.
        source: A video or picture that can be read twice: a file or an array.
        place: Where the files go, without their ends: ``<place>_explain_….png`` and so on.
        faces: As in `AffectInferencer.watch`.
        stride: As in `AffectInferencer.watch`.
        batch_size: Windows per forward pass; of the points of integrated gradients half as many.
        flip: As in `AffectInferencer.watch`.
        progress: Called as ``progress(stage, done, total)``.
        person: Whom to watch, one at a time.
        frames: Numbers of frames whose predictions are attributed to the frames around them.
        at: More of them, by their times in seconds: the nearest frame. Without any, where valence and arousal change
            most.
        film: Write the film.

    Returns:
        What was found, and what was written.

    Raises:
        NoFaceError: If nobody is seen in any frame.
        HOCPError: If a frame is not in the video, or shows nobody, or as `AffectInferencer.watch` does.
        ValueError: If ``person`` is ``"all"``, or as `AffectInferencer.watch` does.
    """
    begun, rule = time.perf_counter(), explainer.rule
    tell = progress or (lambda *_: None)
    if source.times is not None:  # before the work
        blank = Seen(times=source.times.tolist(), runs=[0] * len(source.times))
        for number in (*frames, *(_nearest(blank, seconds, source) for seconds in at)):
            _require_seen(blank, number, source)
    seen = look(explainer, source, faces, stride, batch_size, flip, progress, person)
    wanted = [*frames, *(_nearest(seen, seconds, source) for seconds in at)] or strongest_changes(seen)
    for number in wanted:
        _require_seen(seen, number, source)
    sees_time = rule.clip_len > 1
    known = seen.with_face
    anchors = [known[(2 * n + 1) * len(known) // (2 * _FIELDS)] for n in range(_FIELDS)]
    moments = {number: window_around(seen, number, rule) for number in dict.fromkeys(wanted)} if sees_time else {}
    windows = [window_around(seen, number, rule)[0] for number in dict.fromkeys(anchors)]
    sheet = sorted({known[n * (len(known) - 1) // max(_SHEET - 1, 1)] for n in range(_SHEET)})
    needed = {*sheet, *(one for window in windows for one in window)}
    needed.update(one for window, _ in moments.values() for one in window)
    outputs = _Outputs(place)
    crops = _second_reading(explainer, source, seen, needed, outputs.film if film else None, tell)
    _draw_sheet(explainer, source, seen, sheet, crops, outputs.sheet)

    kernels, measured = explainer.field()
    row = rule.clip_len - 1 if kernels is not None and kernels.future == 0 and sees_time else rule.clip_len // 2
    energy = _effective(explainer, [np.stack([crops[one] for one in window]) for window in windows], row, tell)
    seconds = 1 / rule.fps if rule.fps else rule.frame_interval / source.rate
    offsets = np.arange(rule.clip_len) - row
    write_rows(outputs.field_table, _field_rows(offsets, energy, seconds))
    limits = None if kernels is None else (kernels.past, kernels.future)
    plot_reach(offsets, energy, limits, seconds, outputs.field_plot, f"{source.name}: frames that count")

    taps = temporal_taps(explainer.model)
    write_taps(taps, outputs.taps_table)
    plot_taps([_taps_row(layer) for layer in taps], outputs.taps_plot, f"{explainer.checkpoint.name}: taps in time")

    found: dict[int, MovingFrames] = {}
    for done, (number, (window, place_in)) in enumerate(moments.items(), start=1):
        clip = explainer.normalised([np.stack([crops[one] for one in window])])[0]
        found[number] = moving_frames(explainer.model, clip, place_in, batch_size=max(1, batch_size // 2))
        tell("which frames moved it", done, len(moments))
    write_rows(outputs.frames_table, _frame_rows(seen, moments, found))
    plots = {
        _moment_title(seen, number, found[number]): _by_frame(seen, window, found[number])
        for number, (window, _) in moments.items()
    }
    plot_moving(plots, outputs.frames_plot, f"{source.name}: which frames moved the prediction")
    facts = _facts(explainer, source, seen, kernels, measured, energy, offsets, seconds, taps, moments, found)
    facts["stride"], facts["flip"] = stride or rule.stride, bool(flip or getattr(explainer.model, "flip", False))
    facts["seconds_taken"] = round(time.perf_counter() - begun, 1)
    files = [file for file in outputs.all() if film or file != outputs.film]
    return Explanation(facts, tuple(files), tuple(_summary(facts, taps)))


ENDS = (
    "_explain_cam.mp4", "_explain_cam.png", "_explain_taps.csv", "_explain_taps.png", "_explain_field.csv",
    "_explain_field.png", "_explain_frames.csv", "_explain_frames.png",
)  # fmt: skip
"""Of the files that `explain` writes."""


class _Outputs:
    def __init__(self, place: Path) -> None:
        files = [place.with_name(f"{place.name}{end}") for end in ENDS]
        self.film, self.sheet, self.taps_table, self.taps_plot, self.field_table, self.field_plot = files[:6]
        self.frames_table, self.frames_plot = files[6:]
        self._files = files

    def all(self) -> list[Path]:
        return self._files


def _nearest(seen: Seen, seconds: float, source: Source) -> int:
    if not 0 <= seconds <= seen.times[-1] + 1:
        raise HOCPError(f"--at: must lie in the {seen.times[-1]:.2f} s of the video, got {seconds:g} ({source.where}).")
    return int(np.abs(np.array(seen.times) - seconds).argmin())


def _require_seen(seen: Seen, number: int, source: Source) -> None:
    if not 0 <= number < len(seen.runs):
        raise HOCPError(f"--frame: must be one of 0 to {len(seen.runs) - 1}, got {number} ({source.where}).")
    if seen.runs[number] < 0:
        raise HOCPError(f"--frame: somebody must be seen in it, got {number}, which shows nobody ({source.where}).")


def _shown(rule: ClipRule, square: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the part of a square that is left by the transforms behind the crop."""
    share, size = 1.0, rule.size
    for step in rule.after:
        after = getattr(step, "size", size)
        if isinstance(step, CenterCropClip):
            share *= after / size
        size = after
    middle, half = (square[:2] + square[2:]) / 2, (square[2:] - square[:2]) / 2 * share
    return np.concatenate([middle - half, middle + half]).astype(np.float64)


def _second_reading(
    explainer: Explainer, source: Source, seen: Seen, needed: set[int], film: Path | None, tell: Progress
) -> dict[int, Clip]:
    """Read the video again: write the film, if one is wanted, and return the crops of some frames by number."""
    info, rule, scale = source.info, explainer.rule, seen.scale()
    crops: dict[int, Clip] = {}
    last = len(seen.times) - 1 if film is not None else max(needed)
    with ExitStack() as stack:
        writer = None
        if film is not None:
            size = {"width": 2 * info.width, "height": info.height, "fps": info.fps, "pixel_aspect": info.pixel_aspect}
            audio = source.path if len(seen.times) > 1 else None
            writer = stack.enter_context(OverlayWriter(film, **size, audio=audio))
        frames = stack.enter_context(closing(source.frames()))
        for frame in frames:
            if frame.number > last:
                break
            if frame.number in needed:
                crops[frame.number] = _crop(frame, seen, rule, info.pixel_aspect)
            if writer is not None:
                writer.write(*_drawn(frame, seen, rule, scale))
                tell("drawing", frame.number + 1, last + 1)
    return crops


def _crop(frame: Frame, seen: Seen, rule: ClipRule, aspect: float) -> Clip:
    """Cut a frame as the first reading did."""
    square = seen.squares[frame.number]
    assert square is not None
    whole = seen.boxes[frame.number] is None
    squares = None if whole else (square * (2 * square_scale(aspect)))[None].astype(np.float32)
    clip = {"imgs": crop_frame(frame.picture, squares, 0, aspect, rule.size)[None]}
    for transform in rule.after:
        clip = transform(clip)
    return clip["imgs"][0]


def _drawn(
    frame: Frame, seen: Seen, rule: ClipRule, scale: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], float, list[FaceMark]]:
    """Return a picture with the map of valence beside one with that of arousal, its time, and what to mark."""
    sides, number = [frame.picture.copy(), frame.picture.copy()], frame.number
    maps, square = seen.maps[number], seen.squares[number]
    for index, side in enumerate(sides):
        if maps is not None and square is not None:
            draw_heat(side, maps[index] / scale[index], _shown(rule, square))
        write_label(side, NAMES[index] if maps is not None else f"{NAMES[index]}: no face")
    affect = None if maps is None else seen.affect[number]
    return np.concatenate(sides, axis=1), frame.time, [FaceMark(None, affect, seen.found[number])]


def _draw_sheet(
    explainer: Explainer, source: Source, seen: Seen, numbers: Sequence[int], crops: dict[int, Clip], path: Path
) -> None:
    scale, clips = seen.scale(), []
    for index, name in enumerate(NAMES):
        pictures = []
        for number in numbers:
            picture, maps = crops[number].copy(), seen.maps[number]
            assert maps is not None
            draw_heat(picture, maps[index] / scale[index], (0, 0, picture.shape[1], picture.shape[0]))
            pictures.append(picture)
        clips.append(
            SheetClip(
                frames=np.stack(pictures),
                video=f"{name}: red raises it, blue lowers it",
                frame_inds=np.array(numbers),
                affect=np.stack([seen.affect[number] for number in numbers]),
                valid=np.ones(len(numbers), np.bool_),
                face_found=np.array([seen.found[number] for number in numbers]),
                num_frames=len(seen.times),
            )
        )
    strongest = ", ".join(f"{name} {value:.2g}" for name, value in zip(NAMES, scale, strict=True))
    subtitle = f"Grad-CAM of {explainer.layer}, predictions below; the strongest colour is {strongest} in one cell"
    draw_contact_sheet(clips, source.name, subtitle).save(path)


def _effective(explainer: Explainer, clips: Sequence[Clip], row: int, tell: Progress) -> NDArray[np.float64]:
    """Return the mean over windows of the energy shares of frames, ``[T, 2]``."""
    total = torch.zeros(2, explainer.rule.clip_len)
    for done, clip in enumerate(clips, start=1):
        total += shares(frame_gradients(explainer.model, explainer.normalised([clip]), row))[0].cpu()
        tell("frames that count", done, len(clips))
    return (total / len(clips)).T.double().numpy()


def _field_rows(offsets: NDArray[Any], energy: NDArray[Any], seconds: float) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("offset_frames", "offset_s", "valence_share", "arousal_share")]
    for offset, (valence, arousal) in zip(offsets.tolist(), energy.tolist(), strict=True):
        rows.append((offset, f"{offset * seconds:.4f}", f"{valence:.6g}", f"{arousal:.6g}"))
    return rows


def _frame_rows(
    seen: Seen, moments: dict[int, tuple[list[int], int]], found: dict[int, MovingFrames]
) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [("of_frame", "of_time_s", "frame", "time_s", "valence", "arousal")]
    for number, (window, _) in moments.items():
        for one, (valence, arousal) in zip(window, found[number].attributions.tolist(), strict=True):
            when = f"{seen.times[number]:.4f}"
            rows.append((number, when, one, f"{seen.times[one]:.4f}", f"{valence:.6g}", f"{arousal:.6g}"))
    return rows


def _by_frame(
    seen: Seen, window: Sequence[int], found: MovingFrames
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times and attributions of the frames of a window, those of a frame that is repeated together."""
    values = found.attributions.cpu().double().numpy()
    own = sorted(set(window))
    sums = [values[[place for place, one in enumerate(window) if one == number]].sum(0) for number in own]
    return np.array([seen.times[number] for number in own]), np.stack(sums)


def _moment_title(seen: Seen, number: int, found: MovingFrames) -> str:
    (valence, arousal), (still_v, still_a) = found.prediction.tolist(), found.still.tolist()
    where = f"frame {number} ({seen.times[number]:.2f} s)"
    return (
        f"{where}: valence {still_v:+.2f} still, {valence:+.2f} here; arousal {still_a:+.2f} still, {arousal:+.2f} here"
    )


def _taps_row(layer: LayerTaps) -> TapsRow:
    return TapsRow(layer.layer.removeprefix("backbone."), layer.in_time, layer.from_delta, layer.strength)


def _reach_facts(reach: Reach | None, seconds: float) -> dict[str, Any] | None:
    if reach is None:
        return None
    facts = {"past": reach.past, "future": reach.future, "frames": reach.frames}
    return {**facts, "seconds": round(reach.frames * seconds, 4)}


def _within(offsets: NDArray[Any], energy: NDArray[Any], share: float) -> int | None:
    """Return how many frames around the present one have a share of the energy; None where there is none."""
    mean = energy.mean(1)
    if not mean.sum() > 0:
        return None
    order = np.argsort(np.abs(offsets), kind="stable")
    enough = int(np.searchsorted(np.cumsum(mean[order]) / mean.sum(), share - 1e-9))
    return int(np.abs(offsets[order[min(enough, len(order) - 1)]]))


def _facts(
    explainer: Explainer,
    source: Source,
    seen: Seen,
    kernels: Reach | None,
    measured: Reach,
    energy: NDArray[np.float64],
    offsets: NDArray[Any],
    seconds: float,
    taps: Sequence[LayerTaps],
    moments: dict[int, tuple[list[int], int]],
    found: dict[int, MovingFrames],
) -> dict[str, Any]:
    rule = explainer.rule
    return {
        "frames": len(seen.times),
        "frames_with_face": len(seen.with_face),
        "grad_cam": {
            "layer": explainer.layer,
            "cells": list(explainer.map_size),
            "strongest": dict(zip(NAMES, map(float, seen.scale()), strict=True)),
        },
        "receptive_field": {
            "by_kernels": _reach_facts(kernels, seconds),
            "by_gradients": _reach_facts(measured, seconds),
            "causal": (kernels or measured).future == 0,
            "window_frames": rule.clip_len,
            "frame_seconds": seconds,
            "half_of_energy_within_frames": _within(offsets, energy, 0.5),
            "nine_tenths_of_energy_within_frames": _within(offsets, energy, 0.9),
        },
        "temporal_layers": {kind: sum(layer.kind == kind for layer in taps) for kind in ("factor", "motion", "neck")},
        "moved_by_frames": [
            {
                "frame": number,
                "time_s": seen.times[number],
                "window": [moments[number][0][0], moments[number][0][-1]],
                "said_of_it": dict(zip(NAMES, map(float, seen.affect[number]), strict=True)),
                "in_this_window": dict(zip(NAMES, one.prediction.tolist(), strict=True)),
                "of_the_still_face": dict(zip(NAMES, one.still.tolist(), strict=True)),
                "not_attributed": dict(zip(NAMES, one.residual.tolist(), strict=True)),
                "steps": one.steps,
            }
            for number, one in found.items()
        ],
    }


def _summary(facts: dict[str, Any], taps: Sequence[LayerTaps]) -> list[str]:
    reach = facts["receptive_field"]
    kernels, measured = reach["by_kernels"], reach["by_gradients"]
    lines = [
        f"{facts['frames_with_face']} of {facts['frames']} frames with a face, maps of {facts['grad_cam']['layer']}"
    ]
    if measured["frames"] == 1 and (kernels is None or kernels["frames"] == 1):
        lines.append("the network sees one frame at a time")
    else:
        said = measured if kernels is None else kernels
        kind = "the past alone (causal)" if reach["causal"] else f"{said['past']} before and {said['future']} after"
        lines.append(
            f"receptive field: {said['frames']} frames, {said['seconds']:.2f} s: {kind}; windows hold "
            f"{reach['window_frames']}; half of what moves it within {reach['half_of_energy_within_frames']} frames, "
            f"nine tenths within {reach['nine_tenths_of_energy_within_frames']}"
        )
        if kernels is not None and measured != kernels:
            lines.append(f"of these gradients find {measured['frames']}: all else is multiplied by zero")
    moved = [layer.from_delta for layer in taps if layer.from_delta is not None]
    if moved:
        lines.append(f"temporal factors: {len(moved)} layers, {min(moved):.2g} to {max(moved):.2g} from the delta")
    if not taps:
        lines.append("no layer of this network sees time")
    for one in facts["moved_by_frames"]:
        still, here = one["of_the_still_face"], one["in_this_window"]
        texts = [f"{name} {still[name]:+.2f} -> {here[name]:+.2f}" for name in NAMES]
        lines.append(f"frame {one['frame']} ({one['time_s']:.2f} s), still face -> as it moves: {', '.join(texts)}")
    return lines
