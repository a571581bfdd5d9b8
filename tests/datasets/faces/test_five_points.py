"""Five points of a face turned into the box of its 49 landmarks."""

import numpy as np

from hocp_mm.datasets import landmark_boxes
from hocp_mm.datasets.faces.five_points import point_detections, points_to_landmark_box
from hocp_mm.synthetic.clip import SyntheticClip
from tests.material.tiny_yunet import true_points


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Return eyes, nose tip and mouth corners of 49 landmarks."""
    return np.stack(
        [landmarks[19:25].mean(0), landmarks[25:31].mean(0), landmarks[[13, 31, 37]][0], *landmarks[[31, 37]]]
    )


def test_boxes_from_five_points_are_those_of_all_landmarks_on_average():
    landmarks = np.stack([SyntheticClip(0, subject, frames=1)[0].landmarks for subject in range(8)])
    truth = landmark_boxes(landmarks)
    boxes = points_to_landmark_box(np.stack([five_points(points) for points in landmarks]))
    sides, true_sides = boxes[:, 2:] - boxes[:, :2], truth[:, 2:] - truth[:, :2]
    assert np.abs(np.median(sides / true_sides, axis=0) - 1).max() < 0.08
    assert (np.abs((boxes - truth).reshape(-1, 2, 2).mean(axis=1)) < 0.1 * true_sides.max(axis=1)[:, None]).all()


def test_boxes_move_grow_and_turn_with_the_points():
    points = true_points((4, 5))[None]
    box = points_to_landmark_box(points)
    np.testing.assert_allclose(points_to_landmark_box(3 * points + [7, -2]), 3 * box + [7, -2, 7, -2], rtol=1e-5)
    quarter = points_to_landmark_box(points[..., ::-1] * [-1, 1])  # turned by 90 degrees: the sides change places
    np.testing.assert_allclose(quarter[0, 2:] - quarter[0, :2], (box[0, 2:] - box[0, :2])[::-1], rtol=1e-5)


def test_in_profile_the_nose_counts():
    profile = np.array([[[50, 40], [50, 40], [70, 60], [52, 80], [52, 80]]], dtype=float)
    box = points_to_landmark_box(profile)[0]
    assert box[2] == 70
    assert box[3] - box[1] > 40


def test_points_on_one_spot_and_infinite_ones_are_no_faces():
    points = np.stack([true_points((4, 5)), np.full((5, 2), 7.0), np.full((5, 2), np.inf), np.full((5, 2), np.nan)])
    found = point_detections(points, np.array([1.5, 0.9, 0.9, 0.9]))
    np.testing.assert_array_equal(found.boxes, points_to_landmark_box(points[:1]))
    assert found.scores.tolist() == [1.0]
