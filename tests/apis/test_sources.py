"""Whatever is watched gives what the file gives: arrays, iterators, cameras, pictures, several at once."""

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hocp_mm.apis import AffectInferencer, expand, open_source, sources
from hocp_mm.apis.watching import Batches
from hocp_mm.datasets import iter_frames
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.system.inputs import find_inputs
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video

BOX = (14, 8, 26, 22)
FRAMES = 21


@pytest.fixture(scope="module")
def inferencer(tmp_path_factory: pytest.TempPathFactory) -> AffectInferencer:
    cfg = tiny_config()
    network = tiny_network(cfg)
    return AffectInferencer(write_checkpoint(tmp_path_factory.mktemp("net") / "tiny.pth", cfg, network), device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of the same size, one of them in a folder of its own, and what is neither video nor picture."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    write_video(folder / "a.mp4", noise(FRAMES))
    write_video(folder / "deep" / "b.mp4", noise(13, seed=1))
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def pictures(folder: Path) -> np.ndarray:
    return np.stack(list(iter_frames(folder / "a.mp4")))


class FakeCamera:
    """Stands in for ``cv2.VideoCapture``: gives pictures in OpenCV's order of colours, until it is unplugged."""

    def __init__(self, pictures: np.ndarray, there: bool = True) -> None:
        self.left, self.there, self.released = list(pictures[..., ::-1]), there, False

    def __call__(self, number: int) -> "FakeCamera":
        assert number == 3
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's word
        return self.there

    def read(self) -> tuple[bool, Any]:
        return (True, np.ascontiguousarray(self.left.pop(0))) if self.left else (False, None)

    def release(self) -> None:
        self.released = True


def clock(monkeypatch: pytest.MonkeyPatch, step: float = 0.04) -> None:
    """Let frames of a camera come as evenly as those of a file."""
    times = iter(1000 + step * number for number in range(10_000))
    monkeypatch.setattr(sources.time, "monotonic", lambda: next(times))


def test_every_kind_of_input_gives_what_the_file_gives(
    inferencer: AffectInferencer, folder: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    expected = inferencer.predict(folder / "a.mp4", BOX)
    assert np.ptp(expected.pred, axis=0).min() > 0.02  # the network is not blind
    camera = FakeCamera(pictures)
    monkeypatch.setattr(sources.cv2, "VideoCapture", camera)
    clock(monkeypatch)
    kinds: dict[str, tuple[Any, float | None]] = {
        "text": (str(folder / "a.mp4"), None),
        "array": (pictures, 25.0),
        "list": (list(pictures), 25.0),
        "iterator": (iter(pictures), 25.0),
        "iterator with times": (((5 + n / 25, picture) for n, picture in enumerate(pictures)), None),
        "camera": (3, None),
        "opened": (open_source(folder / "a.mp4"), None),
    }
    for name, (source, fps) in kinds.items():
        timeline = inferencer.predict(source, BOX, fps=fps)
        np.testing.assert_allclose(timeline.pred, expected.pred, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(timeline.time_s, expected.time_s, atol=1e-9, err_msg=name)
        assert timeline.fps == pytest.approx(25), name
    assert camera.released
    for name, given in (("pattern", folder / "*.mp4"), ("folder", folder), ("file", folder / "a.mp4")):
        (_, first), *_ = inferencer.predict_all([given], BOX)
        np.testing.assert_allclose(first.pred, expected.pred, atol=1e-6, err_msg=name)


def test_a_detector_finds_the_same_in_a_file_and_in_its_frames(inferencer: AffectInferencer, tmp_path: Path):
    calm = [np.uint8(noise(1)[0] * 0.8 + number) for number in range(FRAMES)]  # without what looks like a cut
    file = write_video(tmp_path / "calm.mp4", calm)
    pictures = list(iter_frames(file))

    def detector(picture: np.ndarray) -> Detections:
        x = float(picture[..., 0].mean()) / 16
        return Detections(np.float32([[x, 8, x + 26, 30], [40, 5, 60, 25]]), np.float32([0.9, 0.6]))

    whole = inferencer.predict_people(file, detector)
    frames = inferencer.predict_people(((n / 25, picture) for n, picture in enumerate(pictures)), detector)
    assert sorted(whole) == sorted(frames) == [1, 2]
    for person, timeline in whole.items():
        for name, column in timeline.columns().items():
            np.testing.assert_allclose(column, frames[person].columns()[name], atol=1e-6, err_msg=name)
    assert whole[1].face_confidence.tolist() == [np.float32(0.9)] * FRAMES
    # The box is the one that the detector told, where it looked.
    assert whole[1].boxes[0].tolist() == detector(pictures[0]).boxes[0].tolist()
    one = inferencer.predict(file, detector, person=2)
    np.testing.assert_array_equal(one.boxes, whole[2].boxes)
    assert set(one.columns()) == {
        *("frame", "time_s", "valence", "arousal", "face_found", "person", "face_confidence"),
        *("x1", "y1", "x2", "y2", "valence_smoothed", "arousal_smoothed"),
    }


def test_a_picture_is_a_clip_of_one_frame(inferencer: AffectInferencer, folder: Path, tmp_path: Path):
    """Read by the reader of the data sets, which turns it upright."""
    picture = noise(1)[0]
    Image.fromarray(picture).save(tmp_path / "me.png")
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(picture)))
    exif = turned.getexif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = inferencer.predict(picture, BOX).pred
    assert expected.shape == (1, 2)
    assert inferencer.predict(picture[None], BOX).pred.tolist() == expected.tolist()
    assert inferencer.predict(tmp_path / "me.png", BOX).pred.tolist() == expected.tolist()
    assert inferencer.predict(tmp_path / "turned.png", BOX).pred.tolist() == expected.tolist()
    results = dict(inferencer.predict_all([tmp_path / "*.png"], BOX))
    assert [file.name for file in results] == ["me.png", "turned.png"]


def test_windows_of_several_videos_go_through_the_network_together(
    inferencer: AffectInferencer, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = {name: inferencer.predict(folder / name, BOX).pred for name in ("a.mp4", "deep/b.mp4")}
    sizes, answer = [], inferencer.predict_clips
    monkeypatch.setattr(
        inferencer, "predict_clips", lambda clips, *rest: sizes.append(len(clips)) or answer(clips, *rest)
    )
    both = list(inferencer.predict_all([folder / name for name in alone], BOX, batch_size=3))
    assert sizes == [3, 3, 2]  # five windows of one, three of the other
    for (_, timeline), expected in zip(both, alone.values(), strict=True):
        np.testing.assert_allclose(timeline.pred, expected, atol=1e-6)


def test_a_broken_file_among_many_is_named_and_costs_no_other(
    inferencer: AffectInferencer, folder: Path, tmp_path: Path
):
    shutil.copy(folder / "a.mp4", tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    cut = (folder / "a.mp4").read_bytes()
    (tmp_path / "c.mp4").write_bytes(cut[:-900])
    shutil.copy(folder / "deep/b.mp4", tmp_path / "d.mp4")
    found = list(inferencer.predict_all([tmp_path, tmp_path / "none.mp4"], BOX, batch_size=100))
    errors = {file.name: outcome for file, outcome in found if isinstance(outcome, HOCPError)}
    assert sorted(errors) == ["b.mp4", "c.mp4", "none.mp4"]
    assert all(name in str(error) for name, error in errors.items())
    good = {file.name: outcome.pred for file, outcome in found if file.name not in errors}
    np.testing.assert_allclose(good["a.mp4"], inferencer.predict(folder / "a.mp4", BOX).pred, atol=1e-6)
    np.testing.assert_allclose(good["d.mp4"], inferencer.predict(folder / "deep/b.mp4", BOX).pred, atol=1e-6)
    mixed = [outcome.pred for _, outcome in inferencer.predict_all([folder / "a.mp4", np.stack(noise(3))], BOX, fps=9)]
    assert [len(pred) for pred in mixed] == [FRAMES, 3]
    # One that breaks in the middle, whose windows wait with those of others.
    frames = [*noise(9), np.zeros((9, 9, 3), np.uint8)]
    sources = [open_source(source, 25.0) for source in (iter(noise(9)), iter(frames), iter(noise(9)))]
    first, second, third = (outcome for _, outcome in inferencer.predict_all(sources, BOX, batch_size=100))
    assert isinstance(second, DataError)
    np.testing.assert_allclose(third.pred, first.pred, atol=1e-6)


def test_frames_of_a_video_that_is_left_are_dropped(inferencer: AffectInferencer, folder: Path):
    given = [folder / "a.mp4", folder / "a.mp4", folder / "deep/b.mp4"]
    before = threading.active_count()
    watched = inferencer.watch_all(given, lambda frame: Detections(np.float32([[14, 8, 40, 30]]), np.float32([0.9])))
    taken = []
    for source, frames in watched:
        taken.append((source.name, len(list(frames)) if source.name == "b" else next(frames).frame.number))
    assert taken == [("a", 0), ("a", 0), ("b", 13)]
    assert threading.active_count() == before


def test_a_camera_ends_where_one_stops_and_is_given_back(
    inferencer: AffectInferencer, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    camera = FakeCamera(np.concatenate([pictures] * 4))
    monkeypatch.setattr(sources.cv2, "VideoCapture", camera)
    clock(monkeypatch)
    timeline = inferencer.predict(3, BOX, seconds=0.5)
    assert len(timeline) == 13  # 0 to 0.48 s
    assert camera.released
    assert camera.left
    gone = FakeCamera(pictures, there=False)
    monkeypatch.setattr(sources.cv2, "VideoCapture", gone)
    with pytest.raises(MissingDataError, match="camera 3: cannot be opened"):
        open_source(3)
    assert gone.released
    dark = FakeCamera(pictures[:0])
    monkeypatch.setattr(sources.cv2, "VideoCapture", dark)
    with pytest.raises(DataError, match="camera 3: must give a picture"):
        open_source(3)


WRONG: dict[str, tuple[Any, float | None, type[Exception], str]] = {
    "floats": (np.zeros((2, 8, 8, 3)), 25, ValueError, r"must be uint8 \[T, H, W, 3\] or \[H, W, 3\], got float64"),
    "channels first": (np.zeros((2, 3, 8, 8), np.uint8), 25, ValueError, r"got uint8 \[2, 3, 8, 8\]"),
    "no frame": (np.zeros((0, 8, 8, 3), np.uint8), 25, ValueError, r"got uint8 \[0, 8, 8, 3\]"),
    "an array without a rate": (np.zeros((2, 8, 8, 3), np.uint8), None, ValueError, "fps must say how many of its 2"),
    "a rate of nothing": (np.zeros((2, 8, 8, 3), np.uint8), 0, ValueError, "fps: must be positive, got 0"),
    "a file with a rate": ("a.mp4", 25, ValueError, "fps: is for arrays and frames without times"),
    "an empty iterator": (iter(()), 25, DataError, "frames: must hold at least one frame"),
    "an iterator without a rate": (iter([np.zeros((8, 8, 3), np.uint8)]), None, ValueError, "got neither"),
    "a rate beside times": (iter([(0.0, np.zeros((8, 8, 3), np.uint8))]), 25, ValueError, "pairs of a time and"),
    "times that stand": (
        iter([(0.0, np.zeros((8, 8, 3), np.uint8))] * 2), None, DataError, "times must increase, got 0 s after 0 s",
    ),
    "pictures of text": (iter(["a", "b"]), 25, DataError, "a frame must be an array uint8"),
    "a truth": (True, None, ValueError, "source: must be a file, an array"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_watched_is_refused_at_the_door(case: str):
    source, fps, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        open_source(source, fps)


def test_a_stream_is_read_once(inferencer: AffectInferencer):
    source = open_source(iter(noise(3)), 25.0)
    assert len(inferencer.predict(source, BOX)) == 3
    with pytest.raises(DataError, match="frames: can be read once, and was"):
        inferencer.predict(source, BOX)


def test_patterns_and_folders_become_files(folder: Path):
    assert [file.relative_to(folder).as_posix() for file in expand([folder])] == ["a.mp4", "deep/b.mp4"]
    assert find_inputs([folder / "**" / "*.mp4", folder / "a.mp4"]) == [folder / "a.mp4", folder / "deep/b.mp4"]
    with pytest.raises(MissingDataError, match=r"no file has such a name"):
        list(expand([folder / "*.avi"]))
    literal = folder / "x[1].mp4"
    literal.write_bytes(b"")
    assert list(expand([literal])) == [literal]
    literal.unlink()


def test_batches_hold_no_more_than_their_size():
    asked = []
    batches = Batches(lambda clips: asked.append(len(clips)) or np.zeros((len(clips), 1, 2), np.float32), 3)

    class Steps:
        def take(self, start: int, values: np.ndarray) -> None:
            assert values.shape == (1, 2)

    batches.ask((Steps(), n, np.zeros((1, 2, 2, 3), np.uint8)) for n in range(7))
    batches.answer()
    batches.answer()
    assert asked == [3, 3, 1]
