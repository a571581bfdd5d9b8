"""The annotated video."""

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hocp_mm.errors import DataError
from hocp_mm.structures import AffectTimeline
from hocp_mm.visualization import draw_affect, overlay, write_overlay

BOX = np.array([100.0, 40.0, 180.0, 120.0], dtype=np.float32)


def timeline(frames: int = 12, fps: float = 25, **fields) -> AffectTimeline:
    pred = np.linspace(-1, 1, 2 * frames).reshape(frames, 2)
    return AffectTimeline("clip", fps, np.arange(frames), pred, **fields)


def grey(count: int, height: int = 240, width: int = 320) -> list[np.ndarray]:
    return [np.full((height, width, 3), 90, dtype=np.uint8) for _ in range(count)]


def read(path: Path) -> tuple[list[np.ndarray], Fraction, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.average_rate, stream.codec_context.name


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 2)])
def test_video_keeps_frame_count_and_rate(tmp_path: Path, fps: Fraction):
    path = write_overlay(grey(12), timeline(fps=float(fps)), np.tile(BOX, (12, 1)), tmp_path / "new" / "a.mp4")
    frames, rate, codec = read(path)
    assert (len(frames), rate, codec) == (12, fps, "h264")
    assert frames[0].shape == (240, 320, 3)


def test_odd_sizes_become_even(tmp_path: Path):
    frames, _, _ = read(write_overlay(grey(3, 121, 161), timeline(3), None, tmp_path / "a.mp4"))
    assert frames[0].shape == (122, 162, 3)


def test_without_libx264_it_says_so_and_writes_mpeg4(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(overlay, "_has_encoder", lambda name: name != "libx264")
    with caplog.at_level(logging.WARNING):
        path = write_overlay(grey(5), timeline(5), None, tmp_path / "a.mp4")
    frames, rate, codec = read(path)
    assert (len(frames), rate, codec) == (5, 25, "mpeg4")
    assert "no libx264" in caplog.text
    assert "mpeg4" in caplog.text


def test_an_unknown_encoder_is_noticed():
    assert overlay._has_encoder("mpeg4")
    assert not overlay._has_encoder("libx999")


def test_frames_without_a_row_pass_unmarked(tmp_path: Path):
    table = AffectTimeline("clip", 25, np.array([2, 3]), np.zeros((2, 2)))
    frames, _, _ = read(write_overlay(grey(6), table, np.tile(BOX, (2, 1)), tmp_path / "a.mp4"))
    assert [int(frame.std() > 3) for frame in frames] == [0, 0, 1, 1, 0, 0]


def test_a_video_shorter_than_its_timeline_is_refused_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(DataError, match="goes to frame 11, but the video ends after 7 frames"):
        write_overlay(grey(7), timeline(12), None, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_boxes_must_belong_to_the_rows(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\(12, 4\), got \(11, 4\)"):
        write_overlay(grey(12), timeline(12), np.tile(BOX, (11, 1)), tmp_path / "a.mp4")


def test_box_is_drawn_at_its_corners_and_leaves_the_face_and_the_source_alone():
    frame = grey(1)[0]
    marked = draw_affect(frame, timeline(), 3, BOX)
    changed = (marked != frame).any(axis=-1)
    for x, y in ((100, 40), (179, 40), (100, 119), (179, 119)):
        assert changed[y - 2 : y + 3, x - 2 : x + 3].any()
    assert not changed[46:114, 106:174].any()
    assert (frame == 90).all()


def test_a_held_box_is_dimmer_and_no_box_is_not_drawn():
    frame = grey(1)[0]
    seen, held = (
        draw_affect(frame, timeline(face_found=np.full(12, flag)), 3, BOX)[:130, 90:190].max() for flag in (True, False)
    )
    assert seen > held > 90
    nothing = draw_affect(frame, timeline(), 3, np.full(4, np.nan, dtype=np.float32))
    assert (nothing[:130, 90:190] == 90).all()


def test_dot_moves_right_with_valence_and_up_with_arousal():
    def brightest(valence: float, arousal: float) -> np.ndarray:
        table = AffectTimeline("clip", 25, np.array([0]), np.array([[valence, arousal]]))
        panel = overlay._draw_panel(table, 0, 4.0)[:, : 62 * 4].astype(int).sum(axis=2)
        return np.argwhere(panel >= 740).mean(axis=0)[::-1]  # x, y of the white disc

    # Radius of the circle: 25 units of 4 pixels.
    np.testing.assert_allclose(brightest(0.5, 0) - brightest(-0.5, 0), [100, 0], atol=2)
    np.testing.assert_allclose(brightest(0, 0.5) - brightest(0, -0.5), [0, -100], atol=2)


def test_ring_marks_valid_ground_truth_only():
    target = np.tile([0.5, 0.5], (12, 1))
    valid = np.arange(12) < 6
    with_ring, without = (draw_affect(grey(1)[0], timeline(target=target, valid=valid), row, None) for row in (5, 6))
    plain = [draw_affect(grey(1)[0], timeline(), row, None) for row in (5, 6)]
    assert (with_ring != plain[0]).any()
    assert (without == plain[1]).all()


@pytest.mark.parametrize("size", [(48, 64), (240, 320), (33, 400), (600, 200)])
def test_any_size_can_be_drawn_on(size: tuple[int, int]):
    marked = draw_affect(grey(1, *size)[0], timeline(), 11, BOX)
    assert marked.shape == (*size, 3)
    assert (marked != 90).any()
