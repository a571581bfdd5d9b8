"""Picture of an affect timeline: valence and arousal over seconds, against ground truth when there is one."""

from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hocp_mm.functional.agreement import ccc
from hocp_mm.structures.timeline import AffectTimeline
from hocp_mm.system.files import replacing
from hocp_mm.system.refusals import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIMENSIONS = ("valence", "arousal")
# Okabe-Ito blue and vermilion: distinct in every common colour blindness, and different in lightness.
COLOURS = {"valence": "#0072B2", "arousal": "#D55E00"}
_ENDS = {"valence": ("unpleasant", "pleasant"), "arousal": ("calm", "excited")}
_DOTTED = (0, (1, 2))
_COLUMNS = 1440  # pixels of the picture from left to right
_MINUS = "\N{MINUS SIGN}"  # as wide as a digit, unlike the hyphen
_INK, _SOFT, _GRID, _NO_FACE = "#222222", "#767676", "#E4E4E4", "#C9C9C9"


def plot_timeline(timeline: AffectTimeline, path: str | Path, title: str | None = None) -> Path:
    """Draw predictions (and ground truth) of one video, valence above arousal, and save the picture.

    Both axes span [-1, 1]. With ground truth each panel states the concordance correlation over the valid
    frames of this video that have a number; a score over a test set pools all videos and differs. Frames
    without a face are shaded. Lines break where there is no number, where frames are missing, where the
    ground truth is not valid, and where another person follows, which a thin line marks.

    Of a long video each column of pixels shows its first, lowest, highest and last value, which looks the
    same as all of them.

    Args:
        timeline: What to draw.
        path: Picture to write; its suffix chooses the format. The folder is created.
        title: Heading; the name of the video by default.

    Returns:
        The path written.
    """
    from matplotlib.figure import Figure  # here, where it costs no overlay half a second
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = Path(path)
    # A Figure of its own, not pyplot: no global state, no display, safe beside a user's notebook.
    figure = Figure(figsize=(10, 4.7), dpi=144, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.09))
    panels: Any = figure.subplots(2, 1, sharex=True)
    for index, (name, axes) in enumerate(zip(DIMENSIONS, panels, strict=True)):
        _draw_panel(axes, timeline, index, name)
    panels[1].set_xlabel("time (s)", color=_INK, fontsize=11)
    heading = shorten(visible(timeline.video if title is None else title), width=48, placeholder="…")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK, parse_math=False)
    handles = _legend_handles(timeline)
    figure.legend(handles=handles, loc="upper right", ncols=len(handles), frameon=False, fontsize=10, labelcolor=_INK)
    with replacing(path) as draft:
        figure.savefig(draft)
    return path


def _draw_panel(axes: "Axes", timeline: AffectTimeline, index: int, name: str) -> None:
    starts, ends = _spans(timeline)
    axes.set_ylim(-1, 1)
    axes.set_xlim(starts[0], ends[-1])
    axes.axhline(0, color=_SOFT, linewidth=0.9, zorder=1)
    for start, stop in _runs_without_face(timeline, starts, ends):
        axes.axvspan(start, stop, color=_NO_FACE, alpha=0.55, linewidth=0, zorder=0)
    marks = starts[_changes(timeline)]
    if len(marks):
        column = np.floor((marks - starts[0]) / (ends[-1] - starts[0]) * _COLUMNS)
        axes.vlines(
            marks[np.diff(column, prepend=-1) > 0], -1, 1, color=_SOFT, linewidth=0.7, linestyle=_DOTTED, zorder=1
        )
    if timeline.target is not None and timeline.valid is not None:
        truth = np.where(timeline.valid, timeline.target[:, index], np.nan)
        _draw_line(axes, timeline, truth, color=_INK, linewidth=1.5, linestyle=(0, (4, 1.6)), zorder=2)
    _draw_line(axes, timeline, timeline.pred[:, index], color=COLOURS[name], linewidth=2.2, zorder=3)
    _dress(axes, name, _panel_label(timeline, index, name))


def _draw_line(axes: "Axes", timeline: AffectTimeline, values: NDArray[Any], **style: Any) -> None:
    times, values = _thinned(*_with_breaks(timeline, values))
    axes.plot(times, values, **style)
    # A number between two gaps has no line.
    gap = np.isnan(np.concatenate(([np.nan], values, [np.nan])))
    alone = ~gap[1:-1] & gap[:-2] & gap[2:]
    if alone.any():
        dots: dict[str, Any] = {"s": style["linewidth"] ** 2, "color": style["color"], "zorder": style["zorder"]}
        axes.scatter(times[alone], values[alone], linewidth=0, **dots)


def _dress(axes: "Axes", name: str, label: str) -> None:
    axes.set_title(label, loc="left", fontsize=11.5, color=COLOURS[name], fontweight="bold", pad=5)
    axes.set_yticks([-1, -0.5, 0, 0.5, 1], [f"{_MINUS}1", "", "0", "", "1"])
    axes.grid(axis="both", color=_GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, labelcolor=_INK, labelsize=10, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_SOFT)
    low, high = _ENDS[name]
    for text, height, anchor in ((high, 0.97, "top"), (low, 0.03, "bottom")):
        axes.text(1.006, height, text, transform=axes.transAxes, va=anchor, color=_SOFT, fontsize=9.5, style="italic")


def _panel_label(timeline: AffectTimeline, index: int, name: str) -> str:
    if timeline.target is None or timeline.valid is None:
        return name
    counted = timeline.valid & timeline.seen
    if counted.sum() < 2:
        return name
    pred, target = (torch.from_numpy(x[counted, index]).double() for x in (timeline.pred, timeline.target))
    value = round(float(ccc(pred, target)), 2) + 0.0  # + 0.0: no negative zero
    return f"{name}   CCC {value:.2f}".replace("-", _MINUS)


def _legend_handles(timeline: AffectTimeline) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=COLOURS[name], linewidth=2.2, label=name) for name in DIMENSIONS]
    if timeline.target is not None:
        handles.append(Line2D([], [], color=_INK, linewidth=1.5, linestyle=(0, (4, 1.6)), label="ground truth"))
    if _without_face(timeline).any():
        handles.append(Patch(facecolor=_NO_FACE, alpha=0.55, label="no face"))
    if len(_changes(timeline)):
        handles.append(Line2D([], [], color=_SOFT, linewidth=0.7, linestyle=_DOTTED, label="another person"))
    return handles


def _without_face(timeline: AffectTimeline) -> NDArray[np.bool_]:
    return ~timeline.seen if timeline.face_found is None else ~(timeline.seen & timeline.face_found)


def _spans(timeline: AffectTimeline) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where the stretch of each row begins and ends: halfway to its neighbours, not into missing frames."""
    times = timeline.time_s
    if len(times) == 1:
        return times - 0.5 / timeline.fps, times + 0.5 / timeline.fps
    steps = np.diff(times)
    steps[_missing(timeline)] = np.median(steps)
    return times - np.concatenate((steps[:1], steps)) / 2, times + np.concatenate((steps, steps[-1:])) / 2


def _runs_without_face(
    timeline: AffectTimeline, starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> list[tuple[float, float]]:
    """Return start and end of each run of frames without a face; less than a column of pixels does not part them."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], _without_face(timeline), [False])).astype(np.int8)))
    runs: list[tuple[float, float]] = []
    column = (ends[-1] - starts[0]) / _COLUMNS
    for first, stop in edges.reshape(-1, 2):
        start, end = float(starts[first]), float(ends[stop - 1])
        if runs and start - runs[-1][1] < column:
            start = runs.pop()[0]
        runs.append((start, end))
    return runs


def _missing(timeline: AffectTimeline) -> NDArray[Any]:
    """Return between which rows frames are missing, bool ``[F - 1]``."""
    steps = np.diff(timeline.frames)
    return steps > 1.5 * np.median(steps) if len(steps) else np.zeros(0, dtype=np.bool_)


def _changes(timeline: AffectTimeline) -> NDArray[np.intp]:
    """Return the rows at which another person follows, with or without a gap between."""
    if timeline.person is None:
        return np.zeros(0, dtype=np.intp)
    rows = np.flatnonzero(timeline.person)
    return rows[1:][np.diff(timeline.person[rows]) != 0]


def _with_breaks(timeline: AffectTimeline, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return times and values with a NaN wherever no line may go on."""
    breaks = np.union1d(np.flatnonzero(_missing(timeline)) + 1, _changes(timeline))
    times = timeline.time_s
    return np.insert(times, breaks, times[breaks]), np.insert(values.astype(float), breaks, np.nan)


def _thinned(times: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return of each column of pixels the first, lowest, highest and last value, and a NaN if it has one."""
    if len(times) <= 5 * _COLUMNS:
        return times, values
    column = ((times - times[0]) / (times[-1] - times[0]) * (_COLUMNS - 1)).astype(np.int64)
    bounds = np.flatnonzero(np.diff(column, prepend=-1, append=_COLUMNS))
    kept: set[int] = set()
    for first, stop in pairwise(bounds.tolist()):
        part = values[first:stop]
        known, gaps = first + np.flatnonzero(~np.isnan(part)), first + np.flatnonzero(np.isnan(part))
        kept.update(gaps[:1].tolist())
        if len(known):
            part = values[known]
            kept.update((int(known[0]), int(known[part.argmin()]), int(known[part.argmax()]), int(known[-1])))
    rows = np.array(sorted(kept))
    return times[rows], values[rows]
