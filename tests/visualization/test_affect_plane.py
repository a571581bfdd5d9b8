"""The plane: every face has its line from truth to prediction, and the heading its score."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from hocp_mm.visualization import plot_affect_plane


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were saved, instead of files."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (figures.append(self), path.touch()))
    return figures


def lines_of(figure: Figure) -> np.ndarray:
    (axes,) = figure.axes
    (lines,) = [item for item in axes.collections if isinstance(item, LineCollection)]
    return np.array([path.vertices for path in lines.get_paths()])


def test_lines_lead_from_truth_to_prediction_with_valence_to_the_right(drawn, tmp_path):
    target = np.array([[0.5, -0.2], [-0.7, 0.3], [0.1, 0.9]])
    plot_affect_plane(target / 2, target, tmp_path / "x.png", "faces")
    np.testing.assert_allclose(lines_of(drawn[0]), np.stack([target, target / 2], axis=1))


def test_of_many_faces_some_are_drawn_and_all_are_scored(drawn, tmp_path):
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    pred = 0.6 * target
    plot_affect_plane(pred, target, tmp_path / "x.png", "faces", most=50)
    lines = lines_of(drawn[0])
    assert len(lines) == 50
    np.testing.assert_allclose(lines[[0, -1], 0], target[[0, -1]])
    # Population CCC of 0.6 times the truth, worked out: 2 cov / (var + var + squared difference of the means).
    expected = [
        2 * 0.6 * v / (v + 0.36 * v + (0.4 * m) ** 2) for v, m in zip(target.var(0), target.mean(0), strict=True)
    ]
    heading = drawn[0].axes[0].get_title(loc="left")
    assert heading == f"faces\nCCC of 400 faces, 50 shown: valence {expected[0]:.3f}, arousal {expected[1]:.3f}"


def test_the_picture_is_written_into_a_new_folder(tmp_path):
    target = np.array([[0.5, -0.2], [-0.7, 0.3]])
    path = plot_affect_plane(target, target, tmp_path / "new" / "x.png", "faces")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("pred", "target", "most", "message"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), 9, r"both be \[N, 2\].*got \(3, 2\) and \(2, 2\)"),
        (np.zeros((1, 2)), np.zeros((1, 2)), 9, "N of 2 or more"),
        (np.zeros((3, 2)), np.zeros((3, 2)), 0, "most must be 1 or more, got 0"),
    ],
)
def test_mistakes_are_named(tmp_path, pred, target, most, message):
    with pytest.raises(ValueError, match=message):
        plot_affect_plane(pred, target, tmp_path / "x.png", "faces", most)
