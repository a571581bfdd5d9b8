"""The annotated video."""

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hocp_mm.datasets import frame_times
from hocp_mm.errors import DataError
from hocp_mm.structures import AffectTimeline
from hocp_mm.visualization import FaceMark, OverlayWriter, film, write_overlay
from tests.visualization.films import make_film, read

BOX = np.array([100.0, 40.0, 180.0, 120.0], dtype=np.float32)
PANEL = np.s_[172:234, 6:152]  # of a picture 240 pixels high


def timeline(frames: int = 12, fps: float = 25, **fields) -> AffectTimeline:
    pred = np.linspace(-1, 1, 2 * frames).reshape(frames, 2)
    return AffectTimeline("clip", fps, np.arange(frames), pred, **fields)


def grey(count: int, height: int = 240, width: int = 320) -> list[np.ndarray]:
    return [np.full((height, width, 3), 90, dtype=np.uint8) for _ in range(count)]


def write(path: Path, times: list[float], fps: float = 25, height: int = 64, width: int = 64, **options) -> Path:
    with OverlayWriter(path, width=width, height=height, fps=fps, **options) as writer:
        for picture, time in zip(grey(len(times), height, width), times, strict=True):
            writer.write(picture, time, ())
    return path


# The last one has no tick in MPEG-4.
RATES = [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 2), Fraction(120000, 1001)]


@pytest.mark.parametrize(
    ("codec", "fps"), [("libx264", fps) for fps in RATES] + [("mpeg4", fps) for fps in RATES[:-1]], ids=str
)
def test_even_times_give_a_constant_rate(tmp_path: Path, fps: Fraction, codec: str, monkeypatch):
    monkeypatch.setattr(film, "_has_encoder", lambda name: name == codec)
    path = write_overlay(grey(12), timeline(fps=float(fps)), np.tile(BOX, (12, 1)), tmp_path / "new" / "a.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.start_time, stream.frames) == (fps, 0, 12)
        steps = {packet.duration * stream.time_base for packet in container.demux(stream) if packet.size}
    assert steps == {1 / fps}
    content = read(path)
    np.testing.assert_allclose(content.times, np.arange(12) / float(fps), atol=1e-4)
    assert content.length == pytest.approx(12 / fps, abs=1e-4)
    assert content.shape == (320, 240)


UNEVEN = {
    "a browser's": [0, 0.033, 0.067, 0.1, 0.4, 0.433, 1.9, 1.933],
    "a screen that stands still": [0, 3600.0, 3600.04, 7300.5],
    "close": [0, 1e-4, 2e-4, 0.5],
    "later than 0": [0.3, 0.4, 0.7],
}


@pytest.mark.parametrize("case", UNEVEN)
def test_uneven_times_are_kept_and_the_last_picture_is_shown_for_a_frame(tmp_path: Path, case: str):
    times = UNEVEN[case]
    content = read(write(tmp_path / "a.mp4", times, fps=30))
    np.testing.assert_allclose(content.times, times, atol=6e-6)
    assert content.length + (times[0] if times[0] else 0) == pytest.approx(times[-1] + 1 / 30, abs=1e-4)


def test_times_closer_than_a_tick_stay_apart(tmp_path: Path):
    content = read(write(tmp_path / "a.mp4", [0, 1e-9, 2e-9, 0.1]))
    assert len(content.times) == 4
    assert (np.diff(content.times) > 0).all()


def test_a_picture_that_lasts_longer_than_an_mp4_can_say_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"a\.mp4: a picture must last 23861 s at most in an MP4, got one until 1"):
        write(tmp_path / "a.mp4", [0, 1e6])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("times", [[0, 0.1, 0.1], [0, 0.2, 0.1], [0, float("nan")], [0, float("inf")]])
def test_times_must_increase(tmp_path: Path, times: list[float]):
    with pytest.raises(ValueError, match="OverlayWriter: times must increase, got"):
        write(tmp_path / "a.mp4", times)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("height", "width"), [(121, 161), (120, 161), (121, 160), (2, 3), (1, 1)])
def test_odd_sizes_become_even_and_keep_their_pixels(tmp_path: Path, height: int, width: int):
    rng = np.random.default_rng(0)
    picture = np.repeat(rng.integers(0, 256, (1, width, 1), dtype=np.uint8) // 2 + 60, height, axis=0).repeat(3, axis=2)
    with OverlayWriter(tmp_path / "a.mp4", width=width, height=height, fps=25) as writer:
        writer.write(picture, 0, ())
    (found,) = read(tmp_path / "a.mp4").pictures
    assert found.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(found[:height, :width].astype(int) - picture).mean() < 6


def test_colours_come_back_whatever_the_size(tmp_path: Path):
    """Players take BT.709 for large pictures that do not say what they are."""
    for height, width in ((64, 64), (720, 1280)):
        for colour in ((200, 30, 30), (30, 200, 30), (30, 30, 200), (250, 250, 250)):
            path = tmp_path / "a.mp4"
            with OverlayWriter(path, width=width, height=height, fps=25) as writer:
                writer.write(np.full((height, width, 3), colour, np.uint8), 0, ())
            with av.open(str(path)) as container:
                assert (container.streams.video[0].codec_context.colorspace) == 6
            np.testing.assert_allclose(read(path).pictures[0][height // 2, width // 2], colour, atol=6)


@pytest.mark.parametrize(
    ("aspect", "shape"), [(1.0, (320, 240)), (2.0, (640, 240)), (0.5, (160, 240)), (64 / 51, (402, 240))]
)
def test_the_shape_of_pixels_is_that_of_the_source(tmp_path: Path, aspect: float, shape: tuple[int, int]):
    content = read(write(tmp_path / "a.mp4", [0, 0.04], height=240, width=320, pixel_aspect=aspect))
    assert content.shape == shape
    assert content.pictures[0].shape == (240, 320, 3)


def test_without_libx264_it_says_so_and_writes_mpeg4(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(film, "_has_encoder", lambda name: name != "libx264")
    with caplog.at_level(logging.WARNING):
        path = write_overlay(grey(5), timeline(5), None, tmp_path / "a.mp4")
    content = read(path)
    assert (len(content.pictures), content.codecs) == (5, ("mpeg4",))
    assert "no libx264" in caplog.text
    assert "mpeg4" in caplog.text


def test_an_unknown_encoder_is_noticed():
    assert film._has_encoder("mpeg4")
    assert not film._has_encoder("libx999")


def test_frames_without_a_row_pass_unmarked(tmp_path: Path):
    table = AffectTimeline("clip", 25, np.array([2, 3]), np.zeros((2, 2)))
    content = read(write_overlay(grey(6), table, np.tile(BOX, (2, 1)), tmp_path / "a.mp4"))
    assert [int(frame.std() > 3) for frame in content.pictures] == [0, 0, 1, 1, 0, 0]
    np.testing.assert_allclose(content.times, np.arange(6) / 25, atol=1e-6)


def table(times: list[float], pred: np.ndarray, frames: list[int] | None = None, **fields) -> AffectTimeline:
    rows = np.arange(len(times)) if frames is None else np.array(frames)
    return AffectTimeline("clip", 10.0, rows, pred, times=np.array(times), **fields)


def test_times_and_gaps_and_persons_of_a_timeline_reach_the_video(tmp_path: Path):
    pred = np.array([[0.5, 0.5], [np.nan, np.nan], [0.5, 0.5], [0.5, 0.5]], np.float32)
    rows = table([0, 0.1, 0.5, 0.6], pred, person=np.array([1, 0, 1, 2]), face_found=np.array([1, 0, 1, 1], bool))
    content = read(write_overlay(grey(4), rows, None, tmp_path / "a.mp4"))
    np.testing.assert_allclose(content.times, rows.time_s, atol=1e-6)
    panels = [picture[PANEL] for picture in content.pictures]
    assert [int(panel[17:20, 42:45].min()) // 100 for panel in panels] == [2, 0, 2, 2]  # the dot is there
    number = np.s_[:12, :8]
    assert np.abs(panels[0][number].astype(int) - panels[2][number]).max() < 25
    assert np.abs(panels[0][number].astype(int) - panels[3][number]).max() > 50


def test_frames_between_rows_are_shown_between_their_times(tmp_path: Path):
    rows = table([0.5, 0.9, 1.0], np.zeros((3, 2)), [2, 4, 5])
    content = read(write_overlay(grey(8), rows, None, tmp_path / "a.mp4"))
    np.testing.assert_allclose(content.times, [0, 0.25, 0.5, 0.7, 0.9, 1.0, 1.1, 1.2], atol=1e-6)


def test_a_video_shorter_than_its_timeline_is_refused_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(DataError, match="goes to frame 11, but the video ends after 7 frames"):
        write_overlay(grey(7), timeline(12), None, tmp_path / "a.mp4")
    with pytest.raises(DataError, match="the video ends after 0 frames"):
        write_overlay([], timeline(12), None, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_boxes_must_belong_to_the_rows(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\(12, 4\), got \(11, 4\)"):
        write_overlay(grey(12), timeline(12), np.tile(BOX, (11, 1)), tmp_path / "a.mp4")


@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize("after", [0, 1, 30])
def test_an_exception_leaves_what_was_there(tmp_path: Path, after: int, audio: bool):
    source = make_film(tmp_path / "source.mkv", "pcm_s16le") if audio else None
    place = tmp_path / "place"
    place.mkdir()
    (place / "a.mp4").write_bytes(b"old")

    def run() -> None:
        with OverlayWriter(place / "a.mp4", width=64, height=64, fps=25, audio=source) as writer:
            for index, picture in enumerate(grey(after, 64, 64)):
                writer.write(picture, index / 25, ())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [file.name for file in place.iterdir()] == ["a.mp4"]
    assert (place / "a.mp4").read_bytes() == b"old"


def test_no_picture_at_all_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one picture must be written, got none"):
        write(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "picture", [np.zeros((64, 65, 3), np.uint8), np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.uint8)]
)
def test_pictures_of_another_kind_are_refused(tmp_path: Path, picture: np.ndarray):
    with (
        pytest.raises(ValueError, match=r"a picture must be uint8 \(64, 64, 3\), got"),
        OverlayWriter(tmp_path / "a.mp4", width=64, height=64, fps=25) as writer,
    ):
        writer.write(picture, 0, ())


@pytest.mark.parametrize("option", ["width", "height", "fps", "pixel_aspect"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_numbers_must_be_positive(tmp_path: Path, option: str, value: float):
    options = {"width": 64, "height": 64, "fps": 25.0} | {option: value}
    with pytest.raises(ValueError, match=f"{option} must be positive"):
        OverlayWriter(tmp_path / "a.mp4", **options)


def test_pictures_are_left_alone_and_may_be_one_array_that_changes(tmp_path: Path):
    picture = grey(1)[0]
    face = FaceMark(BOX, (0.2, 0.3))
    with OverlayWriter(tmp_path / "a.mp4", width=320, height=240, fps=25) as writer:
        for index in range(20):
            picture[:] = 10 * index
            picture.setflags(write=False)
            writer.write(picture, index / 25, (face,))
            picture.setflags(write=True)
            assert (picture == 10 * index).all()
    levels = [frame[140:160, 200:300].mean() for frame in read(tmp_path / "a.mp4").pictures]
    np.testing.assert_allclose(levels, 10 * np.arange(20), atol=3)


def test_memory_does_not_grow_with_the_video(tmp_path: Path):
    """Pictures on their way are counted: no more than the encoder's own number is ever held."""
    with OverlayWriter(tmp_path / "a.mp4", width=64, height=64, fps=25) as writer:
        for index in range(300):
            writer.write(grey(1, 64, 64)[0], index / 25, ())
            assert len(writer._film._waiting) <= 2


@pytest.mark.parametrize("fps", [1 / 2160, 1e-4, 3e-10, 1e-300])
def test_pictures_may_come_once_in_an_hour(tmp_path: Path, fps: float):
    picture = np.full((16, 16, 3), 90, np.uint8)
    with OverlayWriter(tmp_path / "a.mp4", width=16, height=16, fps=fps) as writer:
        for number in range(3):
            writer.write(picture, 3600.0 * number, [])
    np.testing.assert_allclose(frame_times(tmp_path / "a.mp4"), [0, 3600, 7200])
