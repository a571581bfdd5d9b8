"""Picture of an affect timeline: valence and arousal over seconds, against ground truth when there is one."""

from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from hocp_mm.functional.agreement import ccc
from hocp_mm.structures.timeline import AffectTimeline
from hocp_mm.system.files import replacing

DIMENSIONS = ("valence", "arousal")
# Okabe-Ito blue and vermilion: distinct in every common colour blindness, and different in lightness.
COLOURS = {"valence": "#0072B2", "arousal": "#D55E00"}
_ENDS = {"valence": ("unpleasant", "pleasant"), "arousal": ("calm", "excited")}
_MINUS = "\N{MINUS SIGN}"  # as wide as a digit, unlike the hyphen
_INK, _SOFT, _GRID, _NO_FACE = "#222222", "#767676", "#E4E4E4", "#C9C9C9"


def plot_timeline(timeline: AffectTimeline, path: str | Path, title: str | None = None) -> Path:
    """Draw predictions (and ground truth) of one video, valence above arousal, and save the picture.

    Both axes span [-1, 1]. With ground truth each panel states the concordance correlation over the valid
    frames of this video; a score over a test set pools all videos and differs. Frames without a face are
    shaded, and lines break where frames are missing or the ground truth is not valid.

    Args:
        timeline: What to draw.
        path: Picture to write; its suffix chooses the format. The folder is created.
        title: Heading; the name of the video by default.

    Returns:
        The path written.
    """
    path = Path(path)
    # A Figure of its own, not pyplot: no global state, no display, safe beside a user's notebook.
    figure = Figure(figsize=(10, 4.7), dpi=144, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.09))
    panels: Any = figure.subplots(2, 1, sharex=True)
    for index, (name, axes) in enumerate(zip(DIMENSIONS, panels, strict=True)):
        _draw_panel(axes, timeline, index, name)
    panels[1].set_xlabel("time (s)", color=_INK, fontsize=11)
    heading = shorten(timeline.video if title is None else title, width=48, placeholder="…")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    handles = _legend_handles(timeline)
    figure.legend(handles=handles, loc="upper right", ncols=len(handles), frameon=False, fontsize=10, labelcolor=_INK)
    with replacing(path) as draft:
        figure.savefig(draft)
    return path


def _draw_panel(axes: Axes, timeline: AffectTimeline, index: int, name: str) -> None:
    times, half = timeline.time_s, 0.5 / timeline.fps
    axes.set_ylim(-1, 1)
    axes.set_xlim(times[0] - half, times[-1] + half)
    axes.axhline(0, color=_SOFT, linewidth=0.9, zorder=1)
    for start, stop in _runs_without_face(timeline):
        axes.axvspan(times[start] - half, times[stop - 1] + half, color=_NO_FACE, alpha=0.55, linewidth=0, zorder=0)
    if timeline.target is not None and timeline.valid is not None:
        truth = np.where(timeline.valid, timeline.target[:, index], np.nan)
        axes.plot(*_with_breaks(timeline, truth), color=_INK, linewidth=1.5, linestyle=(0, (4, 1.6)), zorder=2)
    axes.plot(*_with_breaks(timeline, timeline.pred[:, index]), color=COLOURS[name], linewidth=2.2, zorder=3)
    _dress(axes, name, _panel_label(timeline, index, name))


def _dress(axes: Axes, name: str, label: str) -> None:
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
    if timeline.target is None or timeline.valid is None or timeline.valid.sum() < 2:
        return name
    pred, target = (torch.from_numpy(x[:, index]).double() for x in (timeline.pred, np.nan_to_num(timeline.target)))
    value = round(float(ccc(pred, target, torch.from_numpy(timeline.valid))), 2) + 0.0  # + 0.0: no negative zero
    return f"{name}   CCC {value:.2f}".replace("-", _MINUS)


def _legend_handles(timeline: AffectTimeline) -> list[Any]:
    handles: list[Any] = [Line2D([], [], color=COLOURS[name], linewidth=2.2, label=name) for name in DIMENSIONS]
    if timeline.target is not None:
        handles.append(Line2D([], [], color=_INK, linewidth=1.5, linestyle=(0, (4, 1.6)), label="ground truth"))
    if timeline.face_found is not None and not timeline.face_found.all():
        handles.append(Patch(facecolor=_NO_FACE, alpha=0.55, label="no face"))
    return handles


def _runs_without_face(timeline: AffectTimeline) -> list[tuple[int, int]]:
    """Return (start, stop) rows of each run of frames without a face."""
    if timeline.face_found is None:
        return []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ~timeline.face_found, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _with_breaks(timeline: AffectTimeline, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return times and values with a NaN wherever frames are missing, so that no line bridges the gap."""
    steps = np.diff(timeline.frames)
    gaps = np.flatnonzero(steps > 1.5 * np.median(steps)) + 1 if len(steps) else np.zeros(0, dtype=int)
    return np.insert(timeline.time_s, gaps, np.nan), np.insert(values.astype(float), gaps, np.nan)
