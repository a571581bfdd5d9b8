"""The path of one person through the detections, and what lies between them."""

import numpy as np
import pytest

from hocp_mm.datasets.faces.tracking import link_detections, spread_boxes


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y + side]


DETECTIONS = {
    "a chance detection elsewhere is left out": (
        [(0, square(10, 10, 80)), (5, square(200, 100, 90)), (10, square(14, 10, 80))],
        [0, 2],
    ),
    "two chance detections in frames of their own": (
        [(0, square(10, 10, 80)), (5, square(200, 100, 60)), (10, square(12, 10, 80)), (15, square(14, 10, 80))],
        [0, 2, 3],
    ),
    "of two people the larger one": (
        [(0, square(0, 0, 50)), (0, square(150, 0, 90)), (5, square(2, 0, 50)), (5, square(152, 0, 90))],
        [1, 3],
    ),
    "a second person who is larger for one frame": (
        [(k, square(0, 0, 60)) for k in (0, 5, 10, 15)] + [(15, square(150, 0, 70)), (20, square(0, 0, 60))],
        [0, 1, 2, 3, 5],
    ),
    "a cut to another place is followed": (
        [(k, square(0, 0, 80)) for k in (0, 5, 10)] + [(k, square(200, 80, 80)) for k in (15, 20, 25)],
        [0, 1, 2, 3, 4, 5],
    ),
}


@pytest.mark.parametrize(("detections", "chosen"), DETECTIONS.values(), ids=DETECTIONS.keys())
def test_path_through_the_detections(detections, chosen):
    keys, squares = zip(*detections, strict=True)
    assert link_detections(np.array(keys), np.array(squares, dtype=np.float32)).tolist() == chosen


def test_short_gaps_glide_and_long_gaps_hold():
    boxes = np.float32([[0, 0, 10, 10], [4, 0, 14, 10], [104, 0, 114, 10]])
    full, found = spread_boxes(np.array([2, 6, 16]), boxes, num_frames=20, every=2, bridge=5)
    assert full[:7, 0].tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert full[7:16, 0].tolist() == [4] * 9
    assert full[16:, 0].tolist() == [104] * 4
    assert np.flatnonzero(found).tolist() == [2, 3, 6, 7, 16, 17]
