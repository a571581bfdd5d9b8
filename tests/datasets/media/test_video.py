"""Frames are the right ones.

Why these tests exist: on this very kind of file (Xvid AVI with B-frames, SEWA's codec) decord 0.6.0 and
decord2 3.4.0 return *other frames than asked*, without an error: 10, 11, 60, 61 come back as about 0, 1, 31,
32. Every label would then be trained on another picture. `test_decord_is_refused` shows it when decord is there.
"""

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from hocp_mm.datasets.media.video import iter_frames, probe_video, read_frames
from hocp_mm.errors import DataError, MissingDataError
from tests.material.sewa_files import draw_number, random_index_sets, read_number, write_numbered_avi

COUNT = 130
needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is not installed")


@pytest.fixture(scope="module")
def with_b_frames(tmp_path_factory) -> Path:
    return write_numbered_avi(tmp_path_factory.mktemp("video") / "b.avi", range(COUNT))


@pytest.fixture(scope="module")
def without_b_frames(tmp_path_factory) -> Path:
    return write_numbered_avi(tmp_path_factory.mktemp("video") / "p.avi", range(COUNT), b_frames=0)


def _copy(source: Path, target: Path, size: int) -> Path:
    target.write_bytes(source.read_bytes()[:size])
    return target


def test_the_test_file_has_b_frames_and_sewas_tag(with_b_frames):
    with av.open(str(with_b_frames)) as container:
        context = container.streams.video[0].codec_context
        kinds = [frame.pict_type for frame in container.decode(video=0)]
        assert (context.name, context.codec_tag) == ("mpeg4", "XVID")
    assert kinds.count(PictureType.B) > COUNT // 2


@pytest.mark.parametrize("file", ["with_b_frames", "without_b_frames"])
def test_random_access_returns_the_frames_asked_for(file, request):
    path = request.getfixturevalue(file)
    for indices in random_index_sets(COUNT, count=20):
        frames = read_frames(path, indices)
        assert frames.dtype == np.uint8
        assert [read_number(frame) for frame in frames] == indices


def test_colours_come_as_rgb(tmp_path):
    picture = draw_number(0)
    picture[:] = (200, 40, 90)
    path = tmp_path / "red.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 1_000_000
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(read_frames(path, [0])[0].mean(axis=(0, 1)), (200, 40, 90), atol=3)


def test_iteration_gives_every_frame_and_the_same_pixels(with_b_frames):
    frames = list(iter_frames(with_b_frames))
    assert [read_number(frame) for frame in frames] == list(range(COUNT))
    np.testing.assert_array_equal(np.stack(frames[7:9]), read_frames(with_b_frames, [7, 8]))


def test_probe_counts_what_decoding_gives(with_b_frames):
    info = probe_video(with_b_frames)
    assert (info.num_frames, info.fps, info.width, info.height, info.codec) == (COUNT, 25.0, 320, 240, "mpeg4")


def test_pictures_that_are_not_coded_are_not_counted(without_b_frames, tmp_path):
    """Variable rate AVIs say "no new picture" by a packet of a few bytes, which decodes to no frame."""
    # Start code, P picture, no whole second, marker, 5 bits of time (25 fps), marker, vop_coded = 0, stuffing.
    not_coded = b"\x00\x00\x01\xb6" + int("0101" + "00001" + "1" + "0" + "01111", 2).to_bytes(2, "big")
    path = tmp_path / "dropped.avi"
    with av.open(str(without_b_frames)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.dts is None:
                continue
            data = not_coded if index == 60 else bytes(packet)
            copy = av.Packet(data)
            copy.stream, copy.pts, copy.dts, copy.time_base = stream, packet.dts, packet.dts, packet.time_base
            target.mux(copy)
    numbers = [read_number(frame) for frame in iter_frames(path)]
    assert len(numbers) == COUNT - 1
    assert probe_video(path).num_frames == COUNT - 1
    assert [read_number(frame) for frame in read_frames(path, [60, 59])] == [numbers[60], numbers[59]]


def test_no_index_gives_no_frame(with_b_frames):
    assert read_frames(with_b_frames, []).shape == (0, 240, 320, 3)


def test_an_index_beyond_the_end_names_file_and_index(with_b_frames):
    with pytest.raises(DataError, match=r"b\.avi: frame 130 was asked for, but the stream ends after 130 frames"):
        read_frames(with_b_frames, [3, COUNT])


def test_a_negative_index_is_refused(with_b_frames):
    with pytest.raises(ValueError, match=r"indices must be 0 or more, got -1 \(.*b\.avi\)"):
        read_frames(with_b_frames, [-1])


def test_a_fractional_index_is_refused(with_b_frames):
    with pytest.raises(ValueError, match=r"must be whole numbers \[n\], got float64 \(1,\)"):
        read_frames(with_b_frames, np.array([1.0]))


def test_an_unknown_decoder_is_refused(with_b_frames):
    with pytest.raises(ValueError, match="decoder must be one of auto, pyav, seek, decord, got 'opencv'"):
        read_frames(with_b_frames, [0], "opencv")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("read", [probe_video, lambda path: read_frames(path, [0])], ids=["probe", "read"])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(MissingDataError, match=r"none\.avi: no such video file"):
        read(tmp_path / "none.avi")


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 99], ids=["empty", "garbage"])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    path = tmp_path / "bad.avi"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.avi: not a readable video file"):
        probe_video(path)


def test_a_file_without_pictures_is_named(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match=r"sound\.wav: the file must hold a video stream, got none"):
        probe_video(path)


def test_a_file_cut_inside_a_frame_is_refused(with_b_frames, tmp_path):
    path = _copy(with_b_frames, tmp_path / "cut.avi", with_b_frames.stat().st_size * 6 // 10)
    with pytest.raises(
        DataError, match=r"cut\.avi: the file must hold whole frames, but it ends or breaks inside frame"
    ):
        probe_video(path)
    with pytest.raises(DataError, match=r"cut\.avi: frame \d+ (was asked for|is damaged)"):
        read_frames(path, [COUNT - 1])


def test_a_hole_in_the_file_is_refused_and_the_frames_before_it_are_right(with_b_frames, tmp_path):
    raw = bytearray(with_b_frames.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 3000] = bytes(3000)
    path = tmp_path / "hole.avi"
    path.write_bytes(raw)
    assert [read_number(frame) for frame in read_frames(path, [0, 9])] == [0, 9]
    with pytest.raises(DataError, match=r"hole\.avi: frame \d+"):
        read_frames(path, range(COUNT))


def test_a_damaged_picture_is_refused_though_the_decoder_paints_over_it(without_b_frames, tmp_path):
    with av.open(str(without_b_frames)) as container:
        key_frame = [packet for packet in container.demux(video=0) if packet.is_keyframe][1]
        first, size = key_frame.pos, key_frame.size
        number = round(float(key_frame.dts * key_frame.time_base) * 25)
    raw = bytearray(without_b_frames.read_bytes())
    raw[first + size // 2 : first + size * 3 // 4] = b"\xa5" * (size * 3 // 4 - size // 2)
    path = tmp_path / "scratch.avi"
    path.write_bytes(raw)
    assert probe_video(path).num_frames == COUNT  # packets and their sizes are whole
    assert read_number(read_frames(path, [number - 1])[0]) == number - 1
    with pytest.raises(DataError, match=rf"scratch\.avi: frame {number} is damaged in the file"):
        read_frames(path, [number])


@needs_decord
def test_decord_is_refused_where_its_random_access_is_wrong(with_b_frames):
    with pytest.raises(DataError, match=r"b\.avi: decord cannot be trusted with this file: random access to frame"):
        read_frames(with_b_frames, [10, 11, 60, 61], "decord")


@needs_decord
def test_decord_is_used_where_it_passes_its_self_check(without_b_frames):
    frames = read_frames(without_b_frames, [61, 10, 10], "decord")
    assert [read_number(frame) for frame in frames] == [61, 10, 10]


@needs_decord
def test_decord_is_not_even_tried_on_a_transport_stream(tmp_path):
    path = tmp_path / "a.ts"
    path.write_bytes(b"G" * 188)
    with pytest.raises(DataError, match=r"a\.ts: decord cannot be trusted .* others can hang it"):
        read_frames(path, [0], "decord")
