"""`hocp stream`: what comes in by a file, a pipe or a camera is told at once, in a table, in rows, in a window."""

import csv
import errno
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from hocp_mm.apis import AffectInferencer, sources
from hocp_mm.apis.sources import Newest, open_raw, open_source
from hocp_mm.commands import stream
from hocp_mm.datasets import iter_frames, probe_video
from hocp_mm.errors import DataError, HOCPError, MissingDataError, OutputError
from hocp_mm.structures import AffectTimeline
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video

FRAMES, SIZE = 21, (64, 48)
BOX = ["--box", "14,8,26,22", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, and a causal network whose window is longer."""
    folder = tmp_path_factory.mktemp("stream")
    write_video(folder / "a.mp4", noise(FRAMES, SIZE))
    cfg = tiny_config(clip_len=30)
    cfg.model.backbone.temporal_init = "last"
    write_checkpoint(folder / "last.pth", cfg, tiny_network(cfg))
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command, with bytes on its standard input."""

    def run(*words: object, given: bytes = b"") -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        stream.main([*map(str, words), "--checkpoint", str(folder / "last.pth")])

    return run


def pictures(folder: Path) -> np.ndarray:
    return np.stack(list(iter_frames(folder / "a.mp4")))


def test_the_table_has_what_the_file_gets_as_a_whole(folder: Path, run: Any, tmp_path: Path):
    run(folder / "a.mp4", *BOX, "--out", tmp_path / "new/out")
    timeline = AffectTimeline.from_csv(tmp_path / "new/out/a_stream.csv")
    expected = AffectInferencer(folder / "last.pth", device="cpu").predict(folder / "a.mp4", (14, 8, 26, 22))
    np.testing.assert_allclose(timeline.pred, expected.pred, atol=2e-6)
    assert np.ptp(expected.pred, axis=0).min() > 0.02  # the network is not blind
    np.testing.assert_allclose(timeline.time_s, expected.time_s, atol=1e-6)
    assert timeline.boxes[3].tolist() == [14, 8, 40, 30]
    film = probe_video(tmp_path / "new/out/a_stream.mp4")
    assert (film.num_frames, film.fps, film.width) == (FRAMES, 25, SIZE[0])


def test_a_pipe_says_what_the_file_says_in_rows_of_two_kinds(folder: Path, run: Any, capsys: Any):
    raw = pictures(folder).tobytes()
    printed = {}
    for kind, words in {
        "file": (folder / "a.mp4", "--rows", "csv"),
        "csv": ("--raw", "64x48", "--fps", "25", "--rows", "csv"),
        "json": ("--raw", "64x48", "--fps", "25", "--rows", "json"),
    }.items():
        run(*words, *BOX, given=raw)
        printed[kind] = capsys.readouterr().out
    tables = {kind: list(csv.DictReader(io.StringIO(printed[kind]))) for kind in ("file", "csv")}
    objects = [json.loads(line) for line in printed["json"].splitlines()]
    assert len(tables["file"]) == len(tables["csv"]) == len(objects) == FRAMES
    for of_file, row, one in zip(*tables.values(), objects, strict=True):
        assert float(row.pop("latency_ms")) > 0
        assert of_file.pop("latency_ms") != ""
        assert one.pop("latency_ms") > 0
        assert row == of_file == {name: "" if value is None else str(value) for name, value in one.items()}
        assert -1 <= float(row["valence"]) <= 1


def test_who_is_not_seen_has_no_number(folder: Path, run: Any, capsys: Any):
    run("--raw", "64x48", "--fps", "25", "--rows", "csv", "--faces", "cascade", "--device", "cpu",
        given=np.zeros((5, 48, 64, 3), np.uint8).tobytes())  # fmt: skip
    out, told = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["frame"] for row in rows] == list("01234")
    assert all((row["valence"], row["x1"], row["face_found"], row["person"]) == ("", "", "0", "0") for row in rows)
    assert "pipe: 5 frames" in told
    assert "0 % with a face" in told


def test_a_pipe_that_ends_within_a_frame_is_told_and_loses_nothing_before_it(folder: Path, run: Any, tmp_path: Path):
    raw = pictures(folder).tobytes()[: 7 * 64 * 48 * 3 + 100]
    with pytest.raises(DataError, match=r"pipe: must end with a whole frame of 64 x 48 .* got 100 of them \(frame 7\)"):
        run("--raw", "64x48", "--fps", "25", *BOX, "--out", tmp_path, given=raw)
    assert len(AffectTimeline.from_csv(tmp_path / "pipe_stream.csv")) == 7
    assert probe_video(tmp_path / "pipe_stream.mp4").num_frames == 7
    with pytest.raises(DataError, match="pipe: must hold at least one frame"):
        open_raw(io.BytesIO(), 64, 48, 25)


def test_ctrl_c_leaves_whole_files_of_what_was_told(
    folder: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 6 * 64 * 48 * 3:
                raise KeyboardInterrupt
            return super().read(size)

    monkeypatch.setattr(io, "BytesIO", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--raw", "64x48", "--fps", "25", *BOX, "--out", tmp_path, given=pictures(folder).tobytes())
    assert AffectTimeline.from_csv(tmp_path / "pipe_stream.csv").frames.tolist() == list(range(6))
    assert probe_video(tmp_path / "pipe_stream.mp4").num_frames == 6


def test_rows_are_there_before_the_next_frame_comes(folder: Path, run: Any, tmp_path: Path, monkeypatch: Any):
    table, seen = tmp_path / "a_stream.csv", []
    begin = sources.iter_frames

    def watched(path: Path) -> Iterator[np.ndarray]:
        for picture in begin(path):
            seen.append(len(table.read_text().splitlines()) - 1)
            yield picture

    monkeypatch.setattr(sources, "iter_frames", watched)
    run(folder / "a.mp4", *BOX, "--out", tmp_path, "--no-video")
    assert seen == list(range(FRAMES))
    assert [path.name for path in tmp_path.iterdir()] == ["a_stream.csv"]


class Full(io.StringIO):
    """Takes so many rows, then answers with an error."""

    def __init__(self, rows: int, error: OSError) -> None:
        super().__init__()
        self.rows, self.error = rows, error

    def flush(self) -> None:
        if self.getvalue().count("\n") > self.rows:
            raise self.error


def test_who_reads_rows_may_have_enough(folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    printed = Full(5, BrokenPipeError())
    monkeypatch.setattr(sys, "stdout", printed)
    run(folder / "a.mp4", *BOX, "--rows", "csv", "--out", tmp_path)
    sys.stdout.close()  # where the rest went
    assert len(printed.getvalue().splitlines()) == 6
    assert len(AffectTimeline.from_csv(tmp_path / "a_stream.csv")) == 4
    assert probe_video(tmp_path / "a_stream.mp4").num_frames == 4


def test_a_full_disk_is_one_line_and_leaves_the_rows_before(
    folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    begin = Path.open

    class FullDisk:
        def __init__(self, file: Any) -> None:
            self.file, self.rows = file, 0

        def __enter__(self) -> "FullDisk":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, text: str) -> None:
            self.rows += 1
            if self.rows > 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.file.write(text)

        def flush(self) -> None:
            self.file.flush()

    def opened(path: Path, *words: Any, **more: Any) -> Any:
        file = begin(path, *words, **more)
        return FullDisk(file) if path.name == "a_stream.csv" and words == ("w",) else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OutputError, match=r"a_stream\.csv: cannot be written \(No space left on device\)"):
        run(folder / "a.mp4", *BOX, "--out", tmp_path)
    assert len(AffectTimeline.from_csv(tmp_path / "a_stream.csv")) == 4
    assert probe_video(tmp_path / "a_stream.mp4").num_frames == 4


def test_a_window_shows_every_frame_with_its_marks_until_a_key_ends_it(
    folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch
):
    shown: list[np.ndarray] = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 9 else -1)
    begin = time.monotonic()
    run(folder / "a.mp4", *BOX)
    assert time.monotonic() - begin >= 8 / 25  # a film is shown as fast as it was taken
    assert len(shown) == 9
    for picture, original in zip(shown, pictures(folder), strict=False):
        same = (picture[..., ::-1] == original).all(axis=2)
        assert 0.2 < same.mean() < 1  # colours in OpenCV's order, and marks


def test_without_a_screen_it_says_what_else_there_is(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise cv2.error("OpenCV: The function is not implemented. Rebuild the library")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(MissingDataError, match=r"--window: there must be a screen .* --out FOLDER or .* --rows csv"):
        run(folder / "a.mp4", *BOX)


WRONG = {
    "no source": ([], "one of the arguments VIDEO --camera --raw is required"),
    "two sources": (["a.mp4", "--camera", "0"], "not allowed with argument"),
    "raw without rate": (["--raw", "64x48"], "argument --fps: goes with --raw"),
    "rate of a file": (["a.mp4", "--fps", "25"], "argument --fps: goes with --raw"),
    "size": (["--raw", "64,48", "--fps", "25"], "must be WIDTHxHEIGHT in pixels, such as 640x480, got '64,48'"),
    "no rate": (["--raw", "64x48", "--fps", "0"], "must be a number above 0, got '0'"),
    "camera": (["--camera", "front"], "must be a whole number from 0, got 'front'"),
    "no time": (["a.mp4", "--seconds", "0"], "must be above 0, got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_words_are_refused(case: str, capsys: pytest.CaptureFixture[str]):
    words, text = WRONG[case]
    with pytest.raises(SystemExit, match="2"):
        stream.parse_args([*words, "--checkpoint", "best.pth"])
    assert text in capsys.readouterr().err


def test_what_is_there_stays_unless_it_may_go(folder: Path, run: Any, tmp_path: Path):
    mine = tmp_path / "a_stream.csv"
    mine.write_text("mine")
    words = [folder / "a.mp4", *BOX, "--out", tmp_path, "--no-video"]
    with pytest.raises(HOCPError, match=r"a_stream\.csv: is there already; name another --out, or give --overwrite"):
        run(*words)
    assert mine.read_text() == "mine"
    run(*words, "--overwrite", "--seconds", "0.2")
    assert len(AffectTimeline.from_csv(mine)) == 5
    mine.unlink()
    mine.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HOCPError, match="is a link"):
        run(*words, "--overwrite")


def test_the_newest_frame_is_given_and_what_nobody_waited_for_is_counted():
    """A source that waits for nobody, then one of which every frame is asked for in time."""
    asked = threading.Semaphore(0)

    def frames(wait: Callable[[], object]) -> Iterator[np.ndarray]:
        for number in range(40):
            yield np.full((2, 2, 3), number, np.uint8)
            wait()

    with Newest(open_source(frames(lambda: time.sleep(0.01)), fps=25)) as newest:
        times = []
        for frame in newest:
            times.append(frame.time)
            time.sleep(0.05)
    assert 2 <= len(times) < 40
    assert len(times) + newest.left_out == 40
    assert np.all(np.diff(times) > 0)
    assert np.diff(times).max() > 1.5 / 25
    with Newest(open_source(frames(lambda: asked.acquire(timeout=30)), fps=25)) as newest:
        found = []
        for frame in newest:
            found.append(int(frame.picture[0, 0, 0]))
            asked.release()
    assert found == list(range(40))
    assert newest.left_out == 0


def test_who_stops_early_closes_the_source_and_what_ends_it_is_told():
    closed = []

    def endless() -> Iterator[tuple[float, np.ndarray]]:
        try:
            for number in range(10**6):
                time.sleep(0.001)
                yield number / 25, np.zeros((2, 2, 3), np.uint8)
        finally:
            closed.append(True)

    frames = endless()
    source = open_source(frames)
    with Newest(source) as newest:
        next(iter(newest))
    frames.close()
    assert closed == [True]

    def broken() -> Iterator[tuple[float, np.ndarray]]:
        yield 0.0, np.zeros((2, 2, 3), np.uint8)
        for number in range(1, 12):
            yield number / 25, np.zeros((2, 2, 3), np.uint8)
        raise DataError("the cable is out")

    with Newest(open_source(broken())) as newest, pytest.raises(DataError, match="the cable is out"):
        for _ in newest:
            pass


def test_a_camera_is_watched_and_given_back(folder: Path, run: Any, tmp_path: Path, monkeypatch: Any):
    left, released = list(pictures(folder)[..., ::-1]), []

    class Camera:
        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's word
            return True

        def read(self) -> tuple[bool, Any]:
            time.sleep(0.04)
            return (True, np.ascontiguousarray(left.pop(0))) if left else (False, None)

        def release(self) -> None:
            released.append(True)

    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda number: Camera())
    run("--camera", "0", *BOX, "--out", tmp_path, "--no-video")
    timeline = AffectTimeline.from_csv(tmp_path / "camera_0_stream.csv")
    assert 2 <= len(timeline) <= FRAMES
    assert timeline.seen.all()
    assert released == [True]
