"""The comparison of detectors: what it counts, and that the page is that of the numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import detectors
from benchmarks.detectors import Film, box_errors, count_film, synthetic_faces
from hocp_mm.datasets import Detections
from tests.material.tiny_configs import noise, write_video


def answer(*boxes: tuple[float, ...]) -> Detections:
    return Detections(np.array(boxes, dtype=np.float32).reshape(-1, 4), np.ones(len(boxes), dtype=np.float32))


def test_the_page_is_that_of_the_committed_numbers():
    numbers = json.loads(detectors.NUMBERS.read_text(encoding="utf-8"))
    assert detectors.PAGE.read_text(encoding="utf-8") == detectors.page(numbers)


def test_the_default_meets_its_target():
    films = json.loads(detectors.NUMBERS.read_text(encoding="utf-8"))["centerface"]["films"]
    for film in detectors.TALKING:
        found, _, total = films[film.name]
        assert found >= 0.98 * total, film.name
    assert [films[film.name][1] for film in detectors.EMPTY] == [0, 0, 0]


def test_boxes_are_counted_where_a_face_may_be_and_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "__init__.py").touch()
    write_video(tmp_path / "films" / "a.mp4", noise(6, (64, 48)))
    monkeypatch.syspath_prepend(str(tmp_path))
    film = Film("a", "films", "a.mp4", ((range(2, 5), (10.0, 10.0, 30.0, 30.0)),))
    inside, outside = (15.0, 15, 25, 25), (40.0, 15, 60, 25)
    answers = iter([(inside,), (), (inside,), (inside, outside), (outside,), (inside,)])
    assert count_film(lambda frame: answer(*next(answers)), film) == (2, 4, 6)
    assert detectors.locate(Film("b", "films", "b.mp4")) is None
    assert detectors.locate(Film("b", "no_such_package", "b.mp4")) is None


def test_errors_of_boxes_are_fractions_of_the_true_side():
    truth = np.array([100.0, 100, 140, 120])
    faces = [(np.zeros((1, 1, 3), dtype=np.uint8), truth)] * 3
    answers = iter([answer((104, 100, 144, 120), (0, 0, 9, 9)), answer((98, 100, 142, 120)), answer((0, 0, 9, 9))])
    numbers = box_errors(lambda image: next(answers), iter(faces))
    assert (numbers["found"], numbers["total"]) == (2, 3)
    assert numbers["centre"][0] == pytest.approx(0.05)
    assert numbers["side"][0] == pytest.approx(0.05)
    assert numbers["ratio"] == pytest.approx(1.05)
    assert box_errors(lambda image: answer(), iter(faces)) == {"found": 0, "total": 3}


@pytest.mark.parametrize("condition", detectors.CONDITIONS)
def test_synthetic_faces_lie_in_their_boxes(condition: str):
    image, (left, top, right, bottom) = next(synthetic_faces(condition))
    assert image.shape == (240, 320, 3)
    assert 0 < left < right < 320
    assert 0 < top < bottom < 240
    if condition.startswith("small"):
        assert max(right - left, bottom - top) == pytest.approx(0.07 * 240, rel=0.25)
