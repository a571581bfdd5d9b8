"""The rate of a file is that of its frames, and the times belong to exactly the frames that come out."""

from fractions import Fraction

import av
import numpy as np
import pytest

from hocp_mm.datasets.media.stamps import Stamps, read_stamps
from hocp_mm.datasets.media.video import frame_times, probe_video, read_frames, video_times
from hocp_mm.errors import DataError
from tests.material.odd_files import make_odd_file
from tests.material.odd_videos import copy_packets, write_video
from tests.material.sewa_files import draw_number, read_number


def _small(number):
    return draw_number(number)[::4, ::4]


def _oracle(path):
    """Decode in order: numbers that the pictures show, and their stamps in seconds after the first."""
    with av.open(str(path)) as container:
        found = [(read_number(f.to_ndarray(format="rgb24")), f.pts * f.time_base) for f in container.decode(video=0)]
    return [number for number, _ in found], np.array([float(time - found[0][1]) for _, time in found])


def test_a_rate_that_only_the_first_frames_have_is_not_that_of_the_file(tmp_path):
    """A browser writes no rate; FFmpeg takes one from the first frames (30.3), whatever comes later."""
    times = [*range(0, 660, 33), *range(700, 5000, 100)]
    path = write_video(tmp_path / "screen.webm", "libvpx", len(times), draw=_small, milliseconds=times)
    info = probe_video(path)
    assert info.variable
    assert info.fps == float(Fraction(len(times) - 1) / (Fraction(times[-1]) / 1000))
    np.testing.assert_allclose(video_times(path, info), np.array(times) / 1000, atol=1e-9)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
@pytest.mark.parametrize("rate", [8, Fraction(25, 2), 24, 25, Fraction(30000, 1001), 50, 60])
def test_an_even_rate_is_exactly_what_the_header_says(tmp_path, suffix, rate):
    path = tmp_path / f"even.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        for number in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_small(number), format="rgb24")))
        container.mux(stream.encode(None))
    info = probe_video(path)
    assert (info.fps, info.variable, info.num_frames) == (float(rate), False, 40)
    atol = 1e-3 if suffix == "mkv" else 1e-6
    np.testing.assert_allclose(video_times(path, info), np.arange(40) / float(rate), atol=atol)


def test_frames_that_come_evenly_at_another_rate_than_promised_have_that_rate():
    stamps = Stamps(np.arange(100) * 4, Fraction(1, 100))
    assert stamps.rate(Fraction(30)) == (25, False)
    assert stamps.rate(Fraction(30), Fraction(25)) == (25, False)
    assert stamps.rate(Fraction(0)) == (25, False)


def test_half_a_frame_is_where_unevenness_begins():
    moved = np.arange(100) * 4
    moved[50] += 1
    assert Stamps(moved, Fraction(1, 100)).rate(Fraction(25)) == (25, False)
    moved[50] += 1
    assert Stamps(moved, Fraction(1, 100)).rate(Fraction(25)) == (25, True)


def test_an_elementary_stream_keeps_the_rate_of_its_header(tmp_path):
    path = write_video(tmp_path / "raw.h264", "libx264", 12, draw=_small)
    info = probe_video(path)
    assert (info.fps, info.variable, info.num_frames) == (25, False, 12)
    np.testing.assert_allclose(video_times(path, info), np.arange(12) / 25)


def test_recordings_joined_byte_by_byte_are_in_the_order_of_decoding(tmp_path):
    """Time stamps start again in the middle of the file, and sorting them would mix the two."""
    parts = [
        write_video(tmp_path / f"{start}.ts", "libx264", 12, draw=lambda n, start=start: _small(start + n))
        for start in (100, 200)
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe_video(path)
    assert (info.fps, info.variable, info.num_frames) == (25, False, 24)
    np.testing.assert_allclose(video_times(path, info), np.arange(24) / 25)
    assert [read_number(frame) for frame in read_frames(path, [0, 11, 12, 23])] == [100, 111, 200, 211]


def test_frames_of_one_stamp_are_spread_up_to_the_next(tmp_path):
    source = write_video(tmp_path / "even.mkv", "libx264", 6, draw=_small, options={"bf": "0"})
    times = iter([0, 40, 40, 100, 100, 100])
    path = tmp_path / "ties.mkv"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts = packet.dts = next(times)
                packet.stream = stream
                new.mux(packet)
    info = probe_video(path)
    got = video_times(path, info)
    np.testing.assert_allclose(got[:4], [0, 0.04, 0.07, 0.1])
    assert (np.diff(got) > 0).all()
    with pytest.raises(DataError, match="time stamps must increase, but frame 2 does not come after"):
        frame_times(path)


def test_hidden_pictures_of_vp8_are_no_frames(tmp_path):
    """Encoders that look ahead write pictures which others lean on but nobody sees."""
    whole = write_video(tmp_path / "whole.webm", "libvpx", 40, draw=_small, options={"auto-alt-ref": "0"})
    path = tmp_path / "hidden.webm"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for index, packet in enumerate(old.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                if index in (7, 8, 30):
                    assert data[0] & 16
                    data[0] &= ~16  # "show_frame" of its header
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                new.mux(copy)
    numbers, times = _oracle(path)
    assert numbers == [number for number in range(40) if number not in (7, 8, 30)]
    info = probe_video(path)
    assert info.num_frames == 37
    np.testing.assert_allclose(video_times(path, info), times, atol=1e-9)


def test_the_times_of_a_cut_belong_to_the_frames_that_come_out(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", "libx264", 60, draw=_small, gop=25, options={"bf": "2"})
    cut = copy_packets(whole, tmp_path / "cut.mkv", lambda index: index >= 10)
    numbers, times = _oracle(cut)
    info = probe_video(cut)
    assert info.num_frames == len(numbers)
    np.testing.assert_allclose(video_times(cut, info), times, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["h264_25.mp4", "h264_25.mkv", "xvid_25.avi", "hevc_50.mkv", "h264_25.ts", "vp8_25.webm"]
)
def test_usual_files_are_counted_without_decoding(tmp_path, monkeypatch, name):
    """With B pictures; a set of hours of video would take hours to read otherwise."""
    file = make_odd_file(tmp_path, name)
    monkeypatch.setattr("hocp_mm.datasets.media.stamps.decode", None)
    assert len(read_stamps(file.path).values) == len(file.frames)
