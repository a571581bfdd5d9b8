"""Jumps to key frames: the same pictures as in order, only where every jump is proven, and flat memory."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets.media import seek as decoding_seek
from hocp_mm.datasets.media import video
from hocp_mm.datasets.media.seek import seek_table
from hocp_mm.datasets.media.self_check import check_random_access
from hocp_mm.datasets.media.video import read_frames
from hocp_mm.errors import DataError, MissingDataError
from tests.material.odd_videos import write_video
from tests.material.processes import ROOT
from tests.material.sewa_files import draw_number, random_index_sets, read_number, write_numbered_avi

COUNT = 260


def _xvid(folder):
    return write_numbered_avi(folder / "xvid.avi", range(COUNT))


def _h264(folder):
    return write_video(folder / "h264.mp4", "libx264", COUNT, gop=60)


def _open_gop(folder):
    """B-frames after a key frame lean on the group before it."""
    options = {"x264-params": "open-gop=1:keyint=40:min-keyint=40:bframes=3:b-adapt=0:scenecut=0"}
    return write_video(folder / "open.mp4", "libx264", COUNT, options=options)


def _uneven(folder):
    times = np.cumsum(np.random.default_rng(0).integers(1, 90, COUNT)).tolist()
    return write_video(folder / "uneven.mkv", "libx264", COUNT, gop=30, milliseconds=times)


def _all_intra(folder):
    return write_video(folder / "intra.mp4", "libx264", COUNT, gop=1)


def _turned(folder):
    return write_video(folder / "turned.mp4", "libx264", COUNT, gop=30, rotation=180)


@pytest.mark.parametrize("write", [_xvid, _h264, _open_gop, _uneven, _all_intra, _turned], ids=lambda f: f.__name__)
def test_jumps_give_the_pictures_of_decoding_in_order(tmp_path, write):
    path = write(tmp_path)
    table = seek_table(path)
    assert table.refusal == ""
    assert len(table.entries) >= 3
    for indices in random_index_sets(COUNT, count=8):
        np.testing.assert_array_equal(read_frames(path, indices, "seek"), read_frames(path, indices, "pyav"))


def test_a_clip_deep_in_a_file_costs_one_group_of_pictures(tmp_path, monkeypatch):
    path = _h264(tmp_path)
    seek_table(path)
    decoded = []
    number_of = decoding_seek._number_of
    monkeypatch.setattr(decoding_seek, "_number_of", lambda frame, pts: decoded.append(1) or number_of(frame, pts))
    assert [read_number(frame) for frame in read_frames(path, [250, 245, 3], "seek")] == [250, 245, 3]
    assert len(decoded) == 4 + (250 - 240 + 1)  # 0..3, then a jump to 240 and on to 250


def _without_key_frames(folder):
    return write_video(folder / "one.mp4", "libx264", 60, gop=1000)


def _intra_refresh(folder):
    """Pictures heal column by column: entries that are called keys are none."""
    options = {"x264-params": "intra-refresh=1:keyint=30:bframes=0", "tune": "zerolatency"}
    return write_video(folder / "refresh.mp4", "libx264", 120, options=options)


@pytest.mark.parametrize("write", [_without_key_frames, _intra_refresh], ids=lambda f: f.__name__)
def test_a_file_that_fails_the_proof_is_read_in_order(tmp_path, write):
    path = write(tmp_path)
    assert seek_table(path).refusal
    assert [read_number(f) for f in read_frames(path, [55, 3], "auto")] == [55, 3]
    with pytest.raises(DataError, match=r"must be decoded in order: .+\. Use decoder='auto'"):
        read_frames(path, [3], "seek")


def test_the_proof_sees_a_jump_that_gives_other_pictures(tmp_path):
    """A transport stream joined of two takes repeats its time stamps: pts 0 is two pictures."""
    path = tmp_path / "joined.ts"
    one = write_video(tmp_path / "one.ts", "libx264", 60, gop=20)
    two = write_video(tmp_path / "two.ts", "libx264", 60, gop=20, draw=lambda i: draw_number(i + 60))
    path.write_bytes(one.read_bytes() + two.read_bytes())
    assert seek_table(path).refusal == "its time stamps are missing or do not increase"
    assert [read_number(f) for f in read_frames(path, [70, 10])] == [70, 10]


def test_the_proof_compares_pictures_and_not_only_time_stamps(tmp_path, monkeypatch):
    path = _h264(tmp_path)
    real, calls = decoding_seek.to_rgb, []

    def spoiled(where, index, frame):
        calls.append(index)
        picture = real(where, index, frame)
        if index == 130 and calls.count(130) == 2:  # the second time is after a jump
            picture[0, 0, 0] ^= 1
        return picture

    monkeypatch.setattr(decoding_seek, "to_rgb", spoiled)
    assert decoding_seek._prove(str(path), -1, -1).refusal == "frame 130 looks different after a jump to frame 120"
    assert sorted(calls) == sorted([*range(COUNT), *range(240, COUNT), *range(180, 240), *range(120, 131)])


def test_a_damaged_file_is_read_in_order_up_to_the_damage(tmp_path):
    path = write_numbered_avi(tmp_path / "hole.avi", range(COUNT), b_frames=0)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 3000] = bytes(3000)
    path.write_bytes(raw)
    assert seek_table(path).refusal.startswith("not all of it can be decoded (")
    assert [read_number(frame) for frame in read_frames(path, [20, 3])] == [20, 3]
    with pytest.raises(DataError, match=r"hole\.avi: must be decoded in order: not all of it can be decoded"):
        read_frames(path, [3], "seek")


def test_a_file_that_changed_is_proven_again(tmp_path):
    path = write_video(tmp_path / "a.mp4", "libx264", 60, gop=20)
    assert len(seek_table(path).pts) == 60
    write_video(path, "libx264", 80, gop=20)
    assert len(seek_table(path).pts) == 80


def test_jumps_are_bought_when_reading_in_order_has_cost_as_much(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_told", set())
    path = _h264(tmp_path)
    made = []
    real = video.seek_table
    monkeypatch.setattr(video, "seek_table", lambda file: made.append(1) or real(file))
    told = []
    monkeypatch.setattr(video, "print_log", lambda text, **options: told.append(text))
    for reads in range(1, 8):
        assert read_number(read_frames(path, [COUNT - 1])[0]) == COUNT - 1
        assert len(made) == max(0, reads - 4)  # four reads of the whole file are the price
    assert told == [f"decoding: h264 in .mp4 is read by jumps to key frames, proven exact (first such file: {path})"]


def test_an_index_beyond_the_end_is_the_same_error_by_jumps(tmp_path):
    path = _h264(tmp_path)
    with pytest.raises(DataError, match=rf"h264\.mp4: frame {COUNT} was asked for, but the stream ends after {COUNT}"):
        read_frames(path, [COUNT], "seek")


def test_a_missing_file_is_named_by_jumps(tmp_path):
    with pytest.raises(MissingDataError, match=r"none\.mp4: no such video file"):
        read_frames(tmp_path / "none.mp4", [0], "seek")


def test_the_check_finds_every_container_exact(tmp_path):
    for write in (_xvid, _h264, _open_gop, _uneven, _without_key_frames):
        report = check_random_access(write(tmp_path), sample=8)
        assert report.exact
        assert {0, report.num_frames - 1} <= set(report.checked)
        assert len(report.checked) >= 7
        assert report.jumps == (report.refusal == "") == (write is not _without_key_frames)


def test_the_check_finds_a_decoder_that_gives_other_frames(tmp_path, monkeypatch):
    path = _h264(tmp_path)
    real = video.read_by_jumps
    monkeypatch.setattr(video, "read_by_jumps", lambda p, frames, table: real(p, np.maximum(frames - 1, 0), table))
    report = check_random_access(path, sample=6)
    assert not report.exact
    assert report.differing == tuple(sorted(set(report.checked) - {0}))


def test_the_check_finds_decord_wrong_on_an_xvid_avi_with_b_frames(tmp_path):
    pytest.importorskip("decord")
    report = check_random_access(_xvid(tmp_path), decoder="decord")
    assert not report.exact
    assert "returns another picture than sequential reading" in report.fault
    assert report.jumps  # our own jumps are right on it


MEMORY_PROBE = """
import random, sys
from pathlib import Path
from hocp_mm.datasets.media.video import iter_frames, read_frames

def peak_of(work, *args):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    work(*args)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def read(path, count):
    rng = random.Random(0)
    for _ in range(6):
        start = rng.randrange(count - 16)
        read_frames(path, range(start, start + 16), "auto")
    read_frames(path, [count - 1, 0], "seek")
    for picture in iter_frames(path):
        pass

short, long = sys.argv[1:]
read(short, 150)
print(peak_of(read, short, 150), peak_of(read, long, 3000), peak_of(lambda: list(iter_frames(long))))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a stretch")
def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path):
    """3,000 pictures of 160x120 are 165 MiB, and who holds them all shows; reading adds what tables take."""

    def draw(index):
        return np.full((120, 160, 3), index % 256, np.uint8)

    short = write_video(tmp_path / "short.mp4", "mpeg4", 150, draw=draw, gop=50)
    long = write_video(tmp_path / "long.mp4", "mpeg4", 3000, draw=draw, gop=250)
    command = [sys.executable, "-c", MEMORY_PROBE, str(short), str(long)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    of_short, of_long, of_all = map(int, done.stdout.splitlines()[-1].split())  # the log speaks above it
    assert of_long - of_short < 8 * 1024  # KiB
    assert of_all - of_short > 100 * 1024


def test_random_order_and_repeats_come_back_in_the_order_asked_for(tmp_path):
    path = _h264(tmp_path)
    wanted = random.Random(3).choices(range(COUNT), k=25)
    assert [read_number(frame) for frame in read_frames(path, wanted, "seek")] == wanted
