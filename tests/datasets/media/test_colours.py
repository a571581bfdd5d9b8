"""Colours as the file means them, against bars computed from the standards; high dynamic range as a screen shows it."""

import av
import numpy as np
import pytest

from hocp_mm.datasets.media import video
from hocp_mm.datasets.media.hdr import tone_map
from hocp_mm.datasets.media.self_check import check_random_access
from hocp_mm.datasets.media.video import probe_video, read_frames
from hocp_mm.errors import DataError
from tests.material.odd_files import draw, hdr_signal, make_odd_file

# Weights of red and blue in luma, and FFmpeg's number of the matrix.
MATRICES = {
    "BT.709": (0.2126, 0.0722, 1),
    "not said": (0.299, 0.114, 2),
    "BT.470BG": (0.299, 0.114, 5),
    "BT.601": (0.299, 0.114, 6),
    "BT.2020": (0.2627, 0.0593, 9),
}
BARS = np.array(
    [
        (255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255),
        (0, 0, 0), (128, 128, 128), (200, 120, 90),
    ], float,
)  # fmt: skip
BAR = 16


def planes(matrix, full, bits):
    """Return Y, U and V of the bars by the formulas of BT.709 and BT.2100."""
    kr, kb, _ = MATRICES[matrix]
    red, green, blue = BARS.T / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = np.stack([(blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)])
    scale = 2 ** (bits - 8)
    if full:
        top = 2**bits - 1
        values = np.stack([luma * top, *(chroma * top + 128 * scale)])
    else:
        values = np.stack([219 * scale * luma + 16 * scale, *(224 * scale * chroma + 128 * scale)])
    return np.clip(np.rint(values), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full range"])
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv422p10le", 10)])
def test_colour_bars_have_their_colours(tmp_path, matrix, full, pix_fmt, bits):
    path = tmp_path / "bars.mkv"
    frame = av.VideoFrame(BAR * len(BARS), BAR, pix_fmt)
    for number, (plane, values) in enumerate(zip(frame.planes, planes(matrix, full, bits), strict=True)):
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        row = np.repeat(values, BAR if number == 0 or pix_fmt == "yuv444p" else BAR // 2)
        rows[:, : len(row)] = row
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range, frame.pts = MATRICES[matrix][2], 2 if full else 1, 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = frame.colorspace, frame.color_range
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    picture = read_frames(path, [0])[0]
    middles = picture[BAR // 2, BAR // 2 :: BAR].astype(float)
    np.testing.assert_allclose(middles, BARS, atol=3)


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_a_grey_that_no_highlight_touches_comes_back_from_high_dynamic_range(transfer):
    """Up to the knee, 0.8 of white, tone mapping undoes what the standards say of a usual screen's picture."""
    picture = np.repeat(np.arange(4, 224, 4, dtype=np.uint8), 2 * 2 * 3).reshape(-1, 2, 3).repeat(1, axis=0)
    signal = hdr_signal(picture, transfer)[: len(picture)]
    full = np.rint((signal.astype(float) - 64) / 876 * 4095).astype(np.uint16)
    shown = tone_map(np.repeat(full[..., None], 3, axis=2), transfer, 9)
    assert np.abs(shown.astype(int) - picture).max() <= 3


@pytest.mark.parametrize("name", ["pq_hevc.mp4", "hlg_ffv1.mkv"])
def test_high_dynamic_range_is_told_once_and_shown_as_on_a_usual_screen(tmp_path, name, monkeypatch):
    told = []
    monkeypatch.setattr(video, "print_log", lambda text, **options: told.append(text))
    monkeypatch.setattr(video, "_told", set())
    file = make_odd_file(tmp_path, name)
    for _ in range(2):
        probe_video(file.path)
    curve = "PQ" if name.startswith("pq") else "HLG"
    assert told == [
        f"decoding: high dynamic range ({curve}) is shown as on a usual screen (first such file: {file.path})"
    ]
    picture, wanted = read_frames(file.path, [0])[0].astype(int), draw(file.frames[0], 96, 64).astype(int)
    inner = (slice(4, 17), slice(None))  # the row of colours, away from its edge
    for cell in range(4):
        columns = slice(24 * cell + 6, 24 * cell + 18)
        difference = picture[inner][:, columns].mean(axis=(0, 1)) - wanted[inner][:, columns].mean(axis=(0, 1))
        assert np.abs(difference).max() < 14, cell
    assert check_random_access(file.path).exact
    pytest.importorskip("decord")
    with pytest.raises(DataError, match="decord cannot be trusted with this file: it shows other colours"):
        read_frames(file.path, [0], "decord")


def test_a_video_that_says_it_is_upside_down_is_turned_with_a_hint(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(video, "print_log", lambda text, **options: told.append(text))
    monkeypatch.setattr(video, "_told", set())
    for folder in "ab":
        probe_video(make_odd_file(tmp_path / folder, "turned_180_h264.mp4").path)
    (text,) = told
    assert "is turned by 180 degrees; some cameras say so wrongly" in text
    probe_video(make_odd_file(tmp_path, "turned_90_h264.mp4").path)
    assert len(told) == 1
