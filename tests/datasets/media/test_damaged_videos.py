"""A damaged picture is never shown, nor a picture that leans on one."""

import av
import numpy as np
import pytest

from hocp_mm.datasets.media.video import iter_frames, read_frames
from hocp_mm.errors import DataError
from tests.material.odd_videos import write_video
from tests.material.sewa_files import draw_number, read_number

COUNT, GOP, BAD = 36, 12, 5


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A video whose frame 5 FFmpeg marks as damaged; 6 to 11 lean on it, 12 is a key frame."""
    path = write_video(
        tmp_path_factory.mktemp("video") / "a.avi", "mpeg4", COUNT, draw=_shifted, gop=GOP, options={"bf": "0"}
    )
    raw = path.read_bytes()
    with av.open(str(path)) as container:
        place, size = [(packet.pos + 8, packet.size) for packet in container.demux(video=0) if packet.size][BAD]
    for at in range(place + 10, place + size):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 8]) + raw[at + 1 :])
        with av.open(str(path)) as container:
            marks = [frame.is_corrupt for frame in container.decode(video=0)]
        if marks == [index == BAD for index in range(COUNT)]:
            return path
    raise AssertionError("no bit of the frame damages it alone")


def _shifted(number):
    """Return a picture that differs from its neighbours everywhere, so that frames are not small."""
    noise = np.random.default_rng(number).integers(-20, 20, draw_number(0).shape)
    return np.clip(draw_number(number).astype(np.int64) + noise, 0, 255).astype(np.uint8)


def test_the_damaged_frame_and_those_that_lean_on_it_are_refused(damaged):
    with pytest.raises(DataError, match=r"a\.avi: frame 5 is damaged in the file\."):
        read_frames(damaged, [BAD], "pyav")
    for frames in ([6], [11], [2, 8]):
        rule = rf"frame 5 is damaged in the file, and frame {frames[-1]} leans on it"
        with pytest.raises(DataError, match=rule):
            read_frames(damaged, frames, "pyav")


def test_frames_before_it_and_from_the_next_key_frame_on_are_read(damaged):
    wanted = [0, BAD - 1, GOP, 20, COUNT - 1]
    assert [read_number(picture) for picture in read_frames(damaged, wanted, "pyav")] == wanted


def test_no_way_of_reading_shows_it(damaged):
    for _ in range(6):  # "auto" looks for a way of jumping after some reads
        with pytest.raises(DataError, match="frame 5 is damaged"):
            read_frames(damaged, [7])
    with pytest.raises(DataError, match="frame 5 is damaged"):
        list(iter_frames(damaged))


def test_a_video_that_changes_its_size_is_refused_however_it_is_read(tmp_path):
    """Boxes of one size would be cut out of frames of another."""
    parts = [
        write_video(
            tmp_path / f"{side}.mkv", "mjpeg", 3, draw=lambda n, side=side: draw_number(n)[:side], pix_fmt="yuvj420p"
        )
        for side in (240, 120)
    ]
    path = tmp_path / "both.mkv"
    with av.open(str(path), "w") as joined:
        stream = None
        for shift, part in zip((0, 120), parts, strict=True):
            with av.open(str(part)) as old:
                stream = stream or joined.add_stream_from_template(old.streams.video[0])
                for packet in old.demux(video=0):
                    if packet.dts is not None:
                        packet.pts += shift
                        packet.dts = packet.pts
                        packet.stream = stream
                        joined.mux(packet)
    with pytest.raises(DataError, match=r"must have one size, but frame 3 has \(320, 120\) after \(320, 240\)"):
        list(iter_frames(path))
    with pytest.raises(DataError, match="all frames must have one size"):
        read_frames(path, [0, 4])
