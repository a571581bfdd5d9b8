"""The picture of a timeline."""

from dataclasses import replace
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


def rows(times: np.ndarray, pred: np.ndarray, frames: np.ndarray | None = None, **fields) -> AffectTimeline:
    frames = np.arange(len(times)) if frames is None else frames
    return AffectTimeline("clip", 1e-3, frames, pred, times=times, **fields)


def spans(panel: Axes) -> np.ndarray:
    return np.array([p.get_path().get_extents(p.get_patch_transform()).intervalx for p in panel.patches])


def marks(panel: Axes) -> list[float]:
    found = [collection for collection in panel.collections if hasattr(collection, "get_segments")]
    return [float(segment[0][0]) for collection in found for segment in collection.get_segments()]


def test_uneven_times_are_on_the_axis_and_the_rate_is_not_asked(drawn):
    times = np.array([0, 0.1, 0.2, 1.2, 1.3, 1.9])
    found = np.array([1, 0, 1, 0, 0, 1], bool)
    panel = drawn(rows(times, np.zeros((6, 2)), face_found=found))[0]
    assert panel.lines[1].get_xdata().tolist() == times.tolist()
    assert panel.get_xlim() == pytest.approx((-0.05, 2.2))
    # Each frame reaches halfway to its neighbours.
    np.testing.assert_allclose(spans(panel), [(0.05, 0.15), (0.7, 1.6)])


def test_the_shade_does_not_reach_into_frames_that_are_missing(drawn):
    frames = np.r_[0:5, 50:55]
    panel = drawn(rows(frames / 10, np.zeros((10, 2)), frames, face_found=frames != 4))[0]
    np.testing.assert_allclose(spans(panel), [(0.35, 0.45)])


def test_where_there_is_no_number_the_line_breaks_and_the_ground_is_shaded(drawn):
    pred = np.zeros((20, 2))
    pred[5:8] = np.nan
    for panel in drawn(rows(np.arange(20) / 10, pred)):
        assert np.isnan(panel.lines[1].get_ydata()).nonzero()[0].tolist() == [5, 6, 7]
        np.testing.assert_allclose(spans(panel), [(0.45, 0.75)])


def test_a_number_between_two_gaps_is_a_dot(drawn):
    pred = np.full((20, 2), np.nan)
    pred[3], pred[10:] = 0.5, 0.1
    for panel in drawn(rows(np.arange(20) / 10, pred)):
        (dots,) = panel.collections
        np.testing.assert_allclose(dots.get_offsets(), [(0.3, 0.5)])


def test_another_person_is_marked_and_no_line_leads_there(drawn):
    person = np.repeat([1, 0, 1, 2, 0, 1], 5)
    pred = np.where(person[:, None] > 0, 0.2, np.nan).repeat(2, axis=1)
    for panel in drawn(rows(np.arange(30) / 10, pred, person=person)):
        # At the first frame of 2 and of 1 after it; the same one after a gap is no change.
        assert marks(panel) == pytest.approx([1.45, 2.45])
        x, y = panel.lines[1].get_data()
        assert np.isnan(y[np.flatnonzero(x == 1.5)[0]])
    assert marks(drawn(rows(np.arange(30) / 10, pred, person=np.minimum(person, 1)))[0]) == []


def test_frames_without_a_number_do_not_count_for_the_ccc(drawn):
    rng = np.random.default_rng(0)
    pred, target = rng.uniform(-1, 1, (2, 50, 2)).astype(np.float32)
    gaps = pred.copy()
    gaps[10:20] = np.nan
    keep = np.r_[0:10, 20:50]
    full = drawn(rows(np.arange(50) / 10, gaps, target=target, valid=np.ones(50, bool)))
    part = drawn(rows(keep / 10, pred[keep], keep, target=target[keep], valid=np.ones(40, bool)))
    assert [panel.get_title("left") for panel in full] == [panel.get_title("left") for panel in part]
    assert "CCC" in full[0].get_title("left")
    assert "nan" not in full[0].get_title("left")


def test_nothing_but_gaps_can_be_drawn(drawn):
    target = np.zeros((20, 2), np.float32)
    nothing = rows(np.arange(20) / 10, np.full((20, 2), np.nan), target=target, valid=np.ones(20, bool))
    assert [panel.get_title("left") for panel in drawn(nothing)] == ["valence", "arousal"]


@pytest.mark.parametrize("size", [8_000, 100_000])
def test_a_long_video_is_thinned_and_keeps_the_range_of_every_column(drawn, size: int):
    rng = np.random.default_rng(0)
    pred = 0.1 * np.sin(np.arange(size) / 500)[:, None] + rng.normal(0, 0.01, (size, 2))
    pred[rng.choice(size, 5, replace=False)] = 0.9
    gap = slice(size // 2, size // 2 + size // 100)
    pred[gap] = np.nan
    times = np.cumsum(rng.uniform(0.02, 0.06, size))
    panel = drawn(rows(times, pred, face_found=rng.random(size) > 0.3))[0]
    x, y = panel.lines[1].get_data()
    assert len(x) <= 5 * 1440
    assert (np.diff(x) > 0).all()
    assert len(panel.patches) <= 1440
    inside = (x >= times[gap.start]) & (x <= times[gap.stop - 1])
    assert inside.any()
    assert np.isnan(y[inside]).all()
    columns = np.linspace(times[0], times[-1], 1440)
    for known_x, known_y in ((times, pred[:, 0]), (x, y)):
        column = np.searchsorted(columns, known_x, side="right") - 1
        ranges = [known_y[column == which] for which in range(0, 1440, 37)]
        ranges = [(np.nanmin(part), np.nanmax(part)) for part in ranges if np.isfinite(part).any()]
        if known_x is times:
            expected = ranges
    np.testing.assert_allclose(ranges, expected, atol=1e-6)
    assert np.nanmax(y) == pytest.approx(0.9)


def test_many_changes_of_person_are_one_mark_a_column(drawn):
    person = 1 + np.arange(20_000) % 2
    panel = drawn(rows(np.arange(20_000) / 25, np.zeros((20_000, 2)), person=person))[0]
    assert 1000 < len(marks(panel)) <= 1440


def test_a_single_frame_can_be_drawn(tmp_path: Path):
    table = AffectTimeline("image", 25, np.array([0]), np.zeros((1, 2)), np.zeros((1, 2)))
    assert plot_timeline(table, tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["cost$_{x$", "a$b$c", r"\frac$\frac{$", "\udcff", "a\nb"])
def test_the_name_of_a_file_is_no_formula(drawn, name: str):
    (axes, _) = drawn(replace(timeline(), video=name))
    expected = name.encode("unicode_escape").decode().replace("\\\\", "\\")
    (heading,) = [text for text in axes.figure.texts if text.get_text() == expected]
    assert not heading.get_parse_math()
