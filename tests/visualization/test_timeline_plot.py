"""The picture of a timeline."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hocp_mm.structures import AffectTimeline
from hocp_mm.visualization import plot_timeline, timeline_plot

F = 100


def timeline(**fields) -> AffectTimeline:
    t = np.linspace(0, 6, F)
    return AffectTimeline("clip", 25, np.arange(F), np.stack([0.6 * np.sin(t), 0.5 * np.cos(t)], axis=1), **fields)


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that draws a timeline and hands back the picture's two axes."""
    kept: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args, **options):
        kept.append(self)
        return save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", spy)

    def draw(table: AffectTimeline) -> list[Axes]:
        plot_timeline(table, tmp_path / "new" / "a.png")
        return kept[-1].axes

    return draw


def has_colour(picture: np.ndarray, name: str, tolerance: int = 12) -> bool:
    rgb = np.array(colors.to_rgb(name)) * 255
    return bool((np.abs(picture[..., ::-1] - rgb) < tolerance).all(axis=-1).sum() > 50)


def test_picture_is_readable_at_readme_width_and_shows_both_dimensions(tmp_path: Path):
    path = plot_timeline(timeline(), tmp_path / "a.png", title="A title that is much too long " * 4)
    picture = cv2.imread(str(path))
    assert picture.shape[1] >= 1200
    assert all(has_colour(picture, colour) for colour in timeline_plot.COLOURS.values())


def test_axes_are_fixed_and_in_seconds(drawn):
    valence, arousal = drawn(timeline())
    assert valence.get_ylim() == arousal.get_ylim() == (-1, 1)
    assert valence.get_xlim() == pytest.approx((-0.02, (F - 1) / 25 + 0.02))
    assert arousal.get_xlabel() == "time (s)"


def test_panels_state_the_ccc_of_the_valid_frames(drawn):
    rng = np.random.default_rng(0)
    table = timeline()
    target, valid = table.pred + rng.normal(0, 0.2, (F, 2)).astype(np.float32), rng.random(F) < 0.6
    target[~valid] = np.nan
    axes = drawn(timeline(target=target, valid=valid))
    for index, (panel, name) in enumerate(zip(axes, ("valence", "arousal"), strict=True)):
        x, y = table.pred[valid, index].astype(float), target[valid, index].astype(float)
        expected = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        assert panel.get_title("left") == f"{name}   CCC {expected:.2f}"


def test_a_ccc_of_nothing_has_no_sign(drawn):
    target = np.tile(np.linspace(0, 0.001, F)[:, None], 2)
    axes = drawn(timeline(target=target))
    assert [panel.get_title("left").split()[-1] for panel in axes] == ["0.00", "0.00"]


def test_without_ground_truth_there_is_no_ccc(drawn):
    assert [panel.get_title("left") for panel in drawn(timeline())] == ["valence", "arousal"]


def test_frames_without_a_face_are_shaded(drawn):
    found = np.ones(F, dtype=bool)
    found[10:20] = found[95:] = False
    for panel in drawn(timeline(face_found=found)):
        spans = [patch.get_path().get_extents(patch.get_patch_transform()).intervalx for patch in panel.patches]
        assert spans == [pytest.approx((9.5 / 25, 19.5 / 25)), pytest.approx((94.5 / 25, 99.5 / 25))]


def test_lines_break_where_frames_are_missing_and_where_the_truth_is_not_valid(drawn):
    frames = np.r_[0:50, 80:130]
    valid = np.ones(F, dtype=bool)
    valid[20:30] = False
    table = timeline()
    target, predicted = drawn(AffectTimeline("clip", 25, frames, table.pred, table.pred, valid))[0].lines[1:]
    assert np.isnan(predicted.get_ydata()).sum() == 1
    assert np.isnan(predicted.get_ydata()[50])
    assert np.isnan(target.get_ydata()).sum() == 11


def test_a_single_frame_can_be_drawn(tmp_path: Path):
    table = AffectTimeline("image", 25, np.array([0]), np.zeros((1, 2)), np.zeros((1, 2)))
    assert plot_timeline(table, tmp_path / "a.png").stat().st_size > 0
