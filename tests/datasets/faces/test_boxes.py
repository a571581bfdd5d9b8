"""Boxes over time, and crops to the pixel."""

import numpy as np
import pytest

from hocp_mm.datasets.faces import boxes as faces
from hocp_mm.datasets.faces.boxes import (
    crop_faces,
    face_track,
    fill_boxes,
    landmark_boxes,
    smooth_boxes,
    smoothing_window,
    square_boxes,
    usual_rate,
)
from hocp_mm.datasets.faces.crops import crop_frame
from tests.material.sewa_files import square_landmarks

NAN = [np.nan] * 4


def test_box_is_the_extent_of_the_landmarks():
    points = square_landmarks((10.5, 20.0, 60.0, 90.25))
    np.testing.assert_array_equal(landmark_boxes(points[None]), [[10.5, 20.0, 60.0, 90.25]])


@pytest.mark.parametrize("points", [np.full((1, 49, 2), np.nan), np.full((1, 49, 2), 7.0)], ids=["nan", "one point"])
def test_landmarks_without_extent_are_no_face(points):
    assert np.isnan(landmark_boxes(points)).all()


def test_holes_are_interpolated_ends_are_held_and_marked():
    boxes, found = fill_boxes(np.array([NAN, [0, 0, 10, 10], NAN, [4, 8, 14, 18], NAN]))
    assert found.tolist() == [False, True, False, True, False]
    np.testing.assert_allclose(boxes[:, :2], [[0, 0], [0, 0], [2, 4], [4, 8], [4, 8]])


def test_a_video_without_any_face_is_refused():
    with pytest.raises(ValueError, match="at least one frame must have a face"):
        fill_boxes(np.array([NAN, NAN]))


def test_smoothing_follows_a_steady_drift_and_flattens_a_fast_shake():
    frames = np.arange(60)[:, None]
    drift = np.array([[10, 20, 50, 70]]) + 0.5 * frames
    shake = np.where(frames % 2, 3.0, -3.0)
    np.testing.assert_allclose(smooth_boxes(drift, 9), drift, atol=1e-4)
    inner = smooth_boxes(drift + shake, 9)[4:-4]
    assert np.abs(inner - drift[4:-4]).max() <= 3 / 9 + 1e-4


def test_smoothing_equals_an_average_written_out():
    boxes = np.random.default_rng(1).uniform(0, 100, (7, 4))
    expected = [boxes[0], boxes[0:3].mean(0), *(boxes[i - 2 : i + 3].mean(0) for i in (2, 3, 4)), boxes[4:7].mean(0)]
    np.testing.assert_allclose(smooth_boxes(boxes, 5), [*expected, boxes[6]], rtol=1e-5)


def test_a_window_of_one_leaves_boxes_alone():
    boxes = np.random.default_rng(1).uniform(0, 100, (7, 4)).astype(np.float32)
    np.testing.assert_allclose(smooth_boxes(boxes, 1), boxes, rtol=1e-6)
    with pytest.raises(ValueError, match="window must be 1 or more, got 0"):
        smooth_boxes(boxes, 0)


def test_averages_last_as_long_in_a_video_of_any_rate():
    assert [smoothing_window(25, fps) for fps in (25.0, 50.0, 12.5, 29.97)] == [25, 50, 12, 30]
    assert smoothing_window(1, 5.0) == 1
    assert smoothing_window(7, 0.0) == 7  # pictures that are no video


def test_a_pause_is_no_slow_film():
    assert usual_rate(20.0, None) == 20.0
    assert usual_rate(3.0, np.array([0.0])) == 3.0
    assert usual_rate(1.0, np.array([0, 0.04, 0.08, 0.12, 30.0])) == pytest.approx(25)


def test_squares_have_the_same_centre_and_margin_times_the_longer_side():
    np.testing.assert_allclose(square_boxes(np.array([[10, 20, 30, 60]]), 1.5), [[-10, 10, 50, 70]])
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        square_boxes(np.zeros((1, 4)), 0)


def test_track_of_holes_is_defined_everywhere():
    track = face_track(np.array([NAN, [10, 20, 30, 60], NAN]), margin=1.0, window=25)
    np.testing.assert_allclose(track, np.tile([0, 20, 40, 60], (3, 1)))


def test_a_crop_at_scale_one_returns_the_pixels_themselves():
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    crop = crop_faces(frame[None], np.array([[5, 7, 21, 23]]), size=16)
    np.testing.assert_array_equal(crop[0], frame[7:23, 5:21])


def test_beyond_the_image_the_edge_repeats():
    frame = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    crop = crop_faces(frame[None], np.array([[-4, 10, 12, 26]]), size=16)[0]
    padded = np.pad(frame, ((0, 6), (4, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(crop, padded[10:26, 0:16])


def test_shrinking_by_two_averages_pixels():
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    crop = crop_faces(frame[None], np.array([[0, 0, 32, 32]]), size=16)[0]
    expected = frame.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(crop, expected, atol=0.51)


def test_a_drifting_crop_does_not_jump_by_whole_pixels():
    """A ramp read through a square that drifts by 0.1 pixel changes by 0.1 pixel's worth of grey."""
    ramp = np.tile(np.round(3.7 * np.arange(68)).astype(np.uint8)[None, :, None], (60, 1, 3))
    shift = 0.1 * np.arange(20)[:, None]
    boxes = np.array([[20.0, 10, 52, 42]]) + shift * [1, 0, 1, 0]
    means = crop_faces(np.repeat(ramp[None], 20, axis=0), boxes, size=32).mean(axis=(1, 2, 3))
    steady = means[0] + 0.37 * np.arange(20)
    np.testing.assert_allclose(means, steady, atol=0.8)  # a square on whole pixels would be off by up to 1.85


def test_one_box_per_frame_is_needed():
    with pytest.raises(ValueError, match="got 2 frames and 1 boxes"):
        crop_faces(np.zeros((2, 8, 8, 3), np.uint8), np.array([[0, 0, 4, 4]]), size=4)


@pytest.mark.parametrize("side", [5.0, 300.0, 1e5, 1e7])
def test_a_square_larger_than_all_frames_takes_no_more_memory(side: float, monkeypatch: pytest.MonkeyPatch):
    warp, sizes = faces.cv2.warpAffine, []
    monkeypatch.setattr(faces.cv2, "warpAffine", lambda *a, **k: sizes.append(a[2]) or warp(*a, **k))
    frame = np.full((1, 20, 30, 3), 7, np.uint8)
    assert (crop_faces(frame, np.array([[-side / 2, -side / 2, side / 2, side / 2]]), 16) == 7).all()
    assert max(sizes[0]) <= 4 * 30 + 16


@pytest.mark.parametrize("shape", [(1, 40_000), (40_000, 1), (3, 20_000)])
def test_a_square_around_a_strip_takes_little_memory(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    """A picture of some hundred bytes may be one pixel high; so may a film."""
    sizes = []
    monkeypatch.setattr(faces.cv2, "warpAffine", lambda *a, **k: sizes.append(a[2]) or np.zeros((*a[2], 3), np.uint8))
    frame = np.zeros((*shape, 3), np.uint8)
    assert crop_frame(frame, None, 0, 1.0, 112).shape == (112, 112, 3)
    assert max(sizes[0]) < 8192 + 112
