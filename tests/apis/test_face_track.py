"""Boxes from the cascade, a given box, landmarks or the frame."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.apis.face_track import track_faces
from hocp_mm.datasets.faces.five_points import points_to_landmark_box
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from tests.material.tiny_configs import noise, portrait, portrait_box, write_video
from tests.material.tiny_yunet import red_faces, true_points, write_tiny_yunet

F = 36
SHIFTS = [(-115 + 2.2 * i, -44 + 8 * np.sin(i / 6)) for i in range(F)]


@pytest.fixture(scope="module")
def panning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "panning.mp4"
    return write_video(path, (portrait(shift, 1.0) for shift in SHIFTS))


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    common = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return common / (areas[0] + areas[1] - common)


def test_cascade_follows_a_panning_portrait(panning: Path):
    calls = []
    track = track_faces(panning, progress=lambda *state: calls.append(state))
    truth = np.array([portrait_box(shift, 1.0) for shift in SHIFTS])
    assert track.boxes.shape == (F, 4)
    assert track.face_found.all()
    assert overlap(track.boxes, truth).min() > 0.55
    assert np.abs((track.boxes - truth).reshape(F, 2, 2).mean(axis=1)).max() < 9  # centres, in pixels; it moves by 77
    assert calls[-1] == ("looking for faces", F, F)


def test_frames_away_from_the_face_are_held_and_flagged(tmp_path: Path):
    empty = noise(20, (320, 240))
    face = [portrait((-40, -20))] * 20
    path = write_video(tmp_path / "a.mp4", [*empty, *face, *empty])
    track = track_faces(path)
    assert not track.face_found[:18].any()
    assert track.face_found[20:40].all()
    assert not track.face_found[45:].any()
    assert (track.boxes[:20] == track.boxes[20]).all()
    assert (track.boxes[45:] == track.boxes[59]).all()
    assert overlap(track.boxes[[0, 59]], np.array([portrait_box((-40, -20))] * 2)).min() > 0.55


def test_no_face_at_all_names_the_video_and_the_way_out(tmp_path: Path):
    path = write_video(tmp_path / "empty.mp4", noise(7, (320, 240)))
    with pytest.raises(DataError, match=r"no face found in .*empty\.mp4 .*looked at 3 of 7 frames.*--box"):
        track_faces(path)


def test_given_box_holds_for_every_frame(panning: Path):
    track = track_faces(panning, (100, 50, 60.5, 40))
    assert track.face_found.all()
    assert (track.boxes == np.float32([100, 50, 160.5, 90])).all()
    assert track.boxes.shape == (F, 4)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (400, 0, 10, 10), (-20, 0, 10, 10), (0, 0, float("nan"), 5)])
def test_a_box_outside_the_picture_is_refused(panning: Path, box):
    with pytest.raises(DataError, match="is 320x240"):
        track_faces(panning, box)


def test_whole_frame_needs_no_boxes(panning: Path):
    track = track_faces(panning, "frame")
    assert track.boxes is None
    assert track.face_found.tolist() == [True] * F


def landmark_zip(path: Path, missing: set[int]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for frame in set(range(F)) - missing:
            points = np.linspace([10 + frame, 20], [50 + frame, 60], 49)
            archive.writestr(f"x_{frame:05d}.txt", "0 0 0\n1 2 3 4\n" + " ".join(f"{v:.3f}" for v in points.ravel()))
    return path


def test_landmarks_give_tight_boxes_as_in_training(panning: Path, tmp_path: Path):
    track = track_faces(panning, landmark_zip(tmp_path / "a.zip", missing={0, 5, 6}))
    expected = np.array([[10 + i, 20, 50 + i, 60] for i in range(F)], dtype=float)
    expected[0] = expected[1]
    np.testing.assert_allclose(track.boxes, expected, atol=1e-3)
    assert np.flatnonzero(~track.face_found).tolist() == [0, 5, 6]


def test_landmarks_without_a_face_are_refused(panning: Path, tmp_path: Path):
    with pytest.raises(DataError, match="holds no face in any of the 36 frames"):
        track_faces(panning, landmark_zip(tmp_path / "a.zip", missing=set(range(F))))


def test_landmarks_beside_the_picture_are_refused_before_a_frame_is_cropped(panning: Path, tmp_path: Path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for frame in range(F):
            x = 400 if frame == 7 else 10
            points = np.linspace([x, 20], [x + 40, 60], 49)
            archive.writestr(f"x_{frame:05d}.txt", " ".join(f"{v:.3f}" for v in points.ravel()))
    with pytest.raises(DataError, match=r"a\.zip: faces must lie in the 320x240 frame, but .*panning\.mp4 frame 7"):
        track_faces(panning, path)


def test_what_cannot_be_a_source_is_refused(panning: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="yunet, haar, cascade, 'frame', a box or a landmark"):
        track_faces(panning, "dlib")
    with pytest.raises(ValueError, match="got 3 numbers"):
        track_faces(panning, (1, 2, 3))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        track_faces(panning, every=0)
    with pytest.raises(MissingDataError, match="no such landmarks file"):
        track_faces(panning, tmp_path / "a.zip")
    with pytest.raises(MissingDataError, match="no such video"):
        track_faces(tmp_path / "a.mp4")


def test_a_detector_with_a_file_is_given_both(tmp_path: Path):
    cells = [(10 + i // 4, 12) for i in range(12)]
    path = write_video(tmp_path / "red.mp4", (red_faces((320, 240), [cell]) for cell in cells))
    track = track_faces(path, "yunet", every=1, model=write_tiny_yunet(tmp_path / "tiny.onnx"))
    assert track.face_found.all()
    with pytest.raises(HOCPError, match=r"tiny\.onnx is the file of a detector, but the face comes from frame"):
        track_faces(path, "frame", model=tmp_path / "tiny.onnx")
    np.testing.assert_allclose(track.boxes, points_to_landmark_box(np.array([true_points(cell) for cell in cells])))
