"""Every file of the plan is read rightly in every way, or refused in one line: `tests.material.odd_files`."""

from collections import Counter
from pathlib import Path

import pytest

from hocp_mm.datasets.media.seek import seek_table
from hocp_mm.datasets.media.video import probe_video, read_frames
from hocp_mm.errors import DataError
from tests.material.odd_files import PLAN, RATES, faults_of, make_odd_file, read


@pytest.mark.parametrize("name", PLAN, ids=ascii)
def test_an_odd_file_is_read_rightly_or_refused(tmp_path, name):
    file = make_odd_file(tmp_path, name)
    assert faults_of(file) == []
    if file.path.is_absolute():
        assert file.path.stat().st_size < 100_000


def test_the_page_is_of_this_plan():
    text = (Path(__file__).parents[3] / "docs" / "videos.md").read_text(encoding="utf-8")
    assert f"{len(PLAN)} small files" in text
    assert "WRONG" not in text


@pytest.mark.parametrize("address", ["http://example.org/a.mp4", "rtsp://camera/1", "ftp://x/y.avi", "file:///a.mp4"])
@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_no_file(address, kind):
    """A Path makes one slash of two."""
    with pytest.raises(DataError, match="addresses of the net are not supported; download the video first") as caught:
        probe_video(kind(address))
    assert str(caught.value).startswith(str(kind(address)))


def test_what_ffmpeg_said_of_another_file_is_not_told(tmp_path):
    """PyAV adds the last line of a log that all files share."""
    for name in ("cut.mp4", "empty.mp4"):
        file = make_odd_file(tmp_path, name)
        with pytest.raises(DataError, match=r"not a readable video file \([A-Z][a-z ]*\)\.$"):
            probe_video(file.path)


def test_the_plan_is_large_and_makes_the_same_files_again(tmp_path):
    assert len(PLAN) >= 150
    for name in ("h264_25.mp4", "xvid_25.avi", "gaps_vp8.webm", "pq_ffv1.mkv"):
        once, again = (make_odd_file(tmp_path / part, name) for part in "ab")
        assert (once.frames, once.times) == (again.frames, again.times)
    rates = Counter(name.split("_")[1].rpartition(".")[0] for name in PLAN if name.startswith("h264_"))
    assert {f"{float(rate):.4g}" for rate in RATES} <= set(rates)


@pytest.mark.parametrize("name", ["av1_25.mp4", "vp9_24.webm", "live.webm", "ties.mkv", "size_3x5.mkv", "name 8"])
def test_what_decord_fails_on_is_refused_in_one_line(tmp_path, name):
    pytest.importorskip("decord")
    file = make_odd_file(tmp_path, name)
    with pytest.raises(DataError, match=r"decord cannot be trusted with this file: it .*Use decoder='auto'\.$"):
        read_frames(file.path, [0, 1], "decord")


@pytest.mark.parametrize("name", ["gaps_h264.mkv", "screen_vp8.webm", "phone_mjpeg.mov", "dropped_mjpeg.avi"])
def test_decord_is_right_at_variable_rates(tmp_path, name):
    pytest.importorskip("decord")
    file = make_odd_file(tmp_path, name)
    frames = read_frames(file.path, [20, 3, 27], "decord")
    assert [read(frame) for frame in frames] == [file.frames[index] for index in (20, 3, 27)]


def test_jumps_are_among_what_is_tried(tmp_path):
    """Variable rates among them: jumps go by time stamps."""
    for name in ("h264_25.mp4", "gaps_h264.mp4", "screen_vp8.webm", "ties.mkv"):
        table = seek_table(make_odd_file(tmp_path, name).path)
        assert (table.refusal == "") == (name != "ties.mkv"), name
