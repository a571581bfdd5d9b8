"""Plots of what was found about a network: taps in time, receptive field, frames that moved a prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocp_mm.system.files import replacing
from hocp_mm.system.refusals import visible
from hocp_mm.visualization.timeline_plot import COLOURS, DIMENSIONS

_PAST, _PRESENT, _FUTURE = "#4477AA", "#BBBBBB", "#EE7733"
_INK, _SOFT, _GRID = "#222222", "#767676", "#E4E4E4"
_ROW = 0.24  # inches


class TapsRow(NamedTuple):
    """A layer in `plot_taps`.

    Attributes:
        label: Its name.
        in_time: Parts of its energy in past, present and future.
        from_delta: How far its taps are from the delta; None for what has none.
        strength: Norm of the weighted taps.
    """

    label: str
    in_time: tuple[float, float, float]
    from_delta: float | None
    strength: float


def plot_taps(rows: Sequence[TapsRow], path: Path, title: str) -> Path:
    """Draw where in time each layer looks, and how far it has come from the delta; says so where no layer sees time.

    Args:
        rows: Layers, from the first one on.
        path: Picture to write; its suffix chooses the format. The folder is made.
        title: Heading.

    Returns:
        The path written.
    """
    figure = _figure(10, max(2.2, 1.3 + _ROW * len(rows)), title)
    if not rows:
        axes = figure.subplots()
        axes.axis("off")
        axes.text(0.5, 0.5, "no layer of this network sees time", ha="center", va="center", color=_INK, fontsize=13)
        return _save(figure, path)
    shares, away = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    places = np.arange(len(rows))
    parts = np.array([row.in_time for row in rows])
    left = np.zeros(len(rows))
    for index, (name, colour) in enumerate((("past", _PAST), ("present", _PRESENT), ("future", _FUTURE))):
        shares.barh(places, parts[:, index], left=left, color=colour, label=name, height=0.8)
        left += parts[:, index]
    shares.set_yticks(places, [visible(row.label) for row in rows], fontsize=7, parse_math=False)
    shares.invert_yaxis()
    shares.set_xlim(0, 1)
    _dress(shares, "energy of the taps in time")
    shares.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    known = [(place, row.from_delta) for place, row in enumerate(rows) if row.from_delta is not None]
    if known:
        away.barh(*zip(*known, strict=True), color=_SOFT, height=0.8)
    for place, row in enumerate(rows):
        if row.from_delta is None:
            text = "not used yet" if row.strength == 0 else f"strength {row.strength:.2g}"
            away.text(0, place, f" {text}", va="center", fontsize=7, color=_INK)
    _dress(away, "distance from the delta")
    away.set_xlim(left=0)
    return _save(figure, path)


def plot_reach(
    offsets: NDArray[Any], energy: NDArray[Any], limits: tuple[int, int] | None, seconds: float, path: Path, title: str
) -> Path:
    """Draw how much each frame around the present one moves its prediction.

    Args:
        offsets: Frames from the present one, ``[T]``.
        energy: Parts of the gradient's energy for valence and arousal, ``[T, 2]``.
        limits: Farthest frames in the past and the future that the kernels reach; None where that is not known.
        seconds: From one frame of the network to the next.
        path: As in `plot_taps`.
        title: Heading.

    Returns:
        The path written.
    """
    figure = _figure(10, 3.6, title)
    axes = figure.subplots()
    for index, name in enumerate(DIMENSIONS):
        axes.bar(offsets + (index - 0.5) * 0.4, energy[:, index], width=0.4, color=COLOURS[name], label=name)
    if limits is not None:
        inside = [edge for edge in (-limits[0] - 0.5, limits[1] + 0.5) if offsets[0] - 1 <= edge <= offsets[-1] + 1]
        for edge in inside:
            axes.axvline(edge, color=_INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xlabel(f"frame, from the one that is predicted (1 frame = {seconds:.3g} s)", color=_INK)
    _dress(axes, "share of the gradient's energy")
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, path)


def plot_moving(moments: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], path: Path, title: str) -> Path:
    """Draw what frames did for predictions.

    Args:
        moments: For each, by its name, times of frames in seconds ``[T]`` and attributions ``[T, 2]`` of valence and
            arousal.
        path: As in `plot_taps`.
        title: Heading.

    Returns:
        The path written.
    """
    figure = _figure(10, 1 + 2.1 * max(len(moments), 1), title)
    panels = figure.subplots(max(len(moments), 1), 1, squeeze=False)[:, 0]
    for axes, (name, (times, attributions)) in zip(panels, moments.items(), strict=False):
        width = 0.4 * float(np.median(np.diff(times)) if len(times) > 1 else 1)
        for index, dimension in enumerate(DIMENSIONS):
            places = times + (index - 0.5) * width
            axes.bar(places, attributions[:, index], width=width, color=COLOURS[dimension], label=dimension)
        axes.axhline(0, color=_SOFT, linewidth=0.8)
        _dress(axes, name)
    if moments:
        panels[0].legend(frameon=False, fontsize=9, ncols=2)
        panels[-1].set_xlabel("time (s)", color=_INK)
    else:
        panels[0].axis("off")
        text = "this network sees one frame at a time"
        panels[0].text(0.5, 0.5, text, ha="center", va="center", color=_INK, fontsize=13)
    return _save(figure, path)


def _figure(width: float, height: float, title: str) -> Any:
    from matplotlib.figure import Figure  # here, where it costs no command half a second
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A Figure of its own, not pyplot: no global state, no display.
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white", layout=ConstrainedLayoutEngine())
    figure.suptitle(visible(title), x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK, parse_math=False)
    return figure


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK, pad=22 if "energy of" in title else 5)
    axes.grid(axis="both", color=_GRID, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, labelcolor=_INK, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_SOFT)


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as draft:
        figure.savefig(draft)
    return path
