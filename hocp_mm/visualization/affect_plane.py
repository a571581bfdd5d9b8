"""Picture of the valence-arousal plane: where each face is, and where a network puts it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hocp_mm.functional.agreement import ccc
from hocp_mm.system.files import replacing

_INK, _SOFT, _GRID = "#222222", "#767676", "#E4E4E4"
# Okabe-Ito: told apart in every common colour blindness, and different in lightness.
_TRUTH, _PREDICTION = "#56B4E9", "#D55E00"


def plot_affect_plane(
    pred: NDArray[np.floating], target: NDArray[np.floating], path: str | Path, title: str, most: int = 150
) -> Path:
    """Draw a line from truth to prediction for single faces, and save the picture.

    Valence runs to the right, arousal upwards, both over [-1, 1]. Of more than ``most`` faces, as many are drawn,
    evenly spaced in the order given; the concordance correlations in the heading count all of them.

    Args:
        pred: Predictions ``[N, 2]``, (valence, arousal).
        target: Truth ``[N, 2]``, all finite.
        path: Picture to write; its suffix chooses the format. The folder is created.
        title: Heading.
        most: Faces to draw, 1 or more.

    Returns:
        The path written.

    Raises:
        ValueError: If the shapes are not equal and ``[N, 2]`` with N of 2 or more, or ``most`` is below 1.
    """
    if pred.shape != target.shape or pred.ndim != 2 or pred.shape[1] != 2 or len(pred) < 2:
        raise ValueError(
            f"plot_affect_plane: pred and target must both be [N, 2] with N of 2 or more, got {pred.shape} and "
            f"{target.shape}."
        )
    if most < 1:
        raise ValueError(f"plot_affect_plane: most must be 1 or more, got {most}.")
    from matplotlib.collections import LineCollection  # here, where it costs no overlay half a second
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Circle

    path = Path(path)
    valence, arousal = ccc(torch.from_numpy(pred).double(), torch.from_numpy(target).double()).tolist()
    chosen = np.unique(np.linspace(0, len(pred) - 1, min(most, len(pred))).round().astype(int))
    # A Figure of its own, not pyplot: no global state, no display.
    figure = Figure(figsize=(6.4, 6.9), dpi=144, facecolor="white", layout=ConstrainedLayoutEngine())
    axes = figure.add_subplot(aspect="equal", xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    axes.axhline(0, color=_SOFT, linewidth=0.9, zorder=1)
    axes.axvline(0, color=_SOFT, linewidth=0.9, zorder=1)
    axes.add_patch(Circle((0, 0), 1, fill=False, color=_GRID, linewidth=1.2, zorder=0))
    pairs = np.stack([target[chosen], pred[chosen]], axis=1)
    axes.add_collection(LineCollection(list(pairs), colors=_SOFT, linewidths=0.7, alpha=0.6, zorder=2))
    axes.scatter(*pairs[:, 0].T, s=22, facecolors="white", edgecolors=_TRUTH, linewidths=1.3, label="truth", zorder=3)
    axes.scatter(*pairs[:, 1].T, s=16, color=_PREDICTION, linewidths=0, label="prediction", zorder=4)
    axes.set_xlabel("valence: unpleasant to pleasant", color=_INK)
    axes.set_ylabel("arousal: calm to excited", color=_INK)
    shown = "" if len(chosen) == len(pred) else f", {len(chosen)} shown"
    axes.set_title(
        f"{title}\nCCC of {len(pred)} faces{shown}: valence {valence:.3f}, arousal {arousal:.3f}",
        loc="left",
        fontsize=11,
        color=_INK,
    )
    axes.tick_params(colors=_SOFT, labelcolor=_INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, labelcolor=_INK)
    with replacing(path) as draft:
        figure.savefig(draft)
    return path
