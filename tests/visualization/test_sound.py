"""The sound of an annotated video."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from hocp_mm.errors import MissingDataError
from hocp_mm.visualization import OverlayWriter
from tests.visualization.films import Content, loudness, make_film, packets, read

SHOWN = 25


def write(path: Path, audio: Path, count: int = SHOWN) -> Content:
    with OverlayWriter(path, width=32, height=32, fps=25, audio=audio) as writer:
        for index in range(count):
            writer.write(np.full((32, 32, 3), 90, np.uint8), index / 25, ())
    return read(path)


COPIED = {
    "AAC in MP4": ("a.mp4", "aac"),
    "AAC in a transport stream": ("a.ts", "aac"),
    "MP3 in AVI": ("a.avi", "libmp3lame"),
    "AC-3 in Matroska": ("a.mkv", "ac3"),
    "ALAC in QuickTime": ("a.mov", "alac"),
    "Opus in Matroska": ("a.mkv", "libopus"),
    "FLAC in Matroska": ("a.mkv", "flac"),
}


@pytest.mark.parametrize("case", COPIED)
def test_sound_is_copied_byte_for_byte_in_time_and_ends_with_the_pictures(case: str, tmp_path: Path):
    name, codec = COPIED[case]
    source = make_film(tmp_path / name, codec)
    with av.open(str(source)) as container:
        start = next(container.decode(video=0)).time
    content = write(tmp_path / "out.mp4", source)
    assert len(content.pictures) == SHOWN
    assert content.length == pytest.approx(SHOWN / 25, abs=1e-4)
    if name.endswith(".ts"):  # ADTS headers of 7 bytes, which an MP4 has no use for
        expected = [(time - start, data[7:]) for time, data in packets(source)]
    else:
        expected = [(time - start, data) for time, data in packets(source)]
    expected = [(time, data) for time, data in expected if time < SHOWN / 25]
    assert len(expected) > 8
    assert [data for _, data in content.sound] == [data for _, data in expected]
    # A time stamp of the source may be rounded to a millisecond.
    np.testing.assert_allclose([t for t, _ in content.sound], [t for t, _ in expected], atol=1.1e-3)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
@pytest.mark.parametrize("start", [0.0, 0.28, 0.4])
def test_sound_stays_with_the_pictures_where_they_begin_later(codec: str, start: float, tmp_path: Path):
    source = make_film(tmp_path / "a.mkv", codec, start=start, beep=0.7)
    write(tmp_path / "out.mp4", source)
    heard = loudness(tmp_path / "out.mp4")
    assert np.argmax(heard > 0.4) / 100 == pytest.approx(0.7 - start, abs=0.021)
    assert heard[2 : int(100 * (0.7 - start)) - 3].max() < 0.2


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8", "adpcm_ima_wav", "mp2"])
def test_other_sound_is_encoded_as_aac(codec: str, tmp_path: Path):
    source = make_film(tmp_path / "a.avi", codec)
    content = write(tmp_path / "out.mp4", source)
    assert content.codecs == ("h264", "aac")
    assert content.sound[-1][0] == pytest.approx(1.0, abs=0.03)
    heard, expected = loudness(tmp_path / "out.mp4")[:97], loudness(source)[:97]
    clear = np.abs(np.arange(97) - 50) > 4  # the beep begins there
    assert np.abs(heard - expected)[clear].max() < 0.15


def test_silence_stands_where_the_sound_has_a_gap(tmp_path: Path):
    source = make_film(tmp_path / "a.mkv", "pcm_s16le", beep=0.0)
    holes = tmp_path / "holes.mkv"
    with av.open(str(source)) as old, av.open(str(holes), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            missing = packet.stream.type == "audio" and 0.3 <= (packet.pts or 0) * packet.time_base < 0.7
            if packet.size and not missing:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    write(tmp_path / "out.mp4", holes)
    heard = loudness(tmp_path / "out.mp4")
    assert heard[33:67].max() < 0.2
    assert heard[5:28].min() > 0.5
    assert heard[73:97].min() > 0.5


def test_a_film_without_sound_stays_silent_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source = make_film(tmp_path / "a.mp4", None)
    with caplog.at_level(logging.INFO, "hocp_mm"):
        content = write(tmp_path / "out.mp4", source)
    assert content.codecs == ("h264",)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'out.mp4'} is silent: {source} has no sound."
    ]


def test_without_an_encoder_other_sound_is_left_out_with_one_line(tmp_path: Path, monkeypatch, caplog):
    source = make_film(tmp_path / "a.avi", "pcm_s16le")
    monkeypatch.setattr("hocp_mm.visualization.sound._ENCODER", "no_such_encoder")
    content = write(tmp_path / "out.mp4", source)
    assert (len(content.pictures), content.codecs) == (SHOWN, ("h264",))
    assert len(caplog.records) == 1
    assert "is silent: the sound of" in caplog.text


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "pcm_s16le", "libopus", "flac", "ac3", "mp2"])
@pytest.mark.parametrize("damage", ["noise", "zeros", "cut"])
def test_damaged_sound_never_ends_the_film(codec: str, damage: str, tmp_path: Path):
    source = make_film(tmp_path / "a.mkv", codec, seconds=2)
    data = bytearray(source.read_bytes())
    rng = np.random.default_rng(0)
    middle = len(data) // 3
    if damage == "cut":
        del data[middle:]
    else:
        size = len(data) // 2
        data[middle : middle + size] = rng.bytes(size) if damage == "noise" else bytes(size)
    source.write_bytes(data)
    content = write(tmp_path / "out.mp4", source, 50)
    np.testing.assert_allclose(content.times, np.arange(50) / 25, atol=1e-6)


@pytest.mark.parametrize("codec", ["aac", "mp2", "ac3"])
def test_sound_that_a_file_promises_and_does_not_hold(codec: str, tmp_path: Path):
    source = make_film(tmp_path / "a.ts", codec)
    data = source.read_bytes()
    cells = [data[at : at + 188] for at in range(0, len(data), 188)]
    with av.open(str(source)) as container:
        number = container.streams.audio[0].id
    source.write_bytes(b"".join(cell for cell in cells if (cell[1] & 31) << 8 | cell[2] != number))
    with av.open(str(source)) as container:
        assert len(container.streams.audio) == 1
    assert len(write(tmp_path / "out.mp4", source).pictures) == SHOWN


@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_packets_that_go_back_in_time_are_left_out(codec: str, tmp_path: Path):
    source = make_film(tmp_path / "a.ts", codec)
    source.write_bytes(2 * source.read_bytes())
    assert (np.diff([time for time, _ in packets(source)]) < 0).any()
    content = write(tmp_path / "out.mp4", source, 60)
    times = [time for time, _ in content.sound]
    assert times == sorted(times)
    assert 1.2 < times[-1] < 1.6
    np.testing.assert_allclose(content.times, np.arange(60) / 25, atol=1e-6)


def test_a_cover_is_not_the_film_that_gives_the_time(tmp_path: Path):
    source = make_film(tmp_path / "a.mkv", "aac", start=0.4)
    covered = tmp_path / "covered.mp4"
    with av.open(str(source)) as old, av.open(str(covered), "w") as new:
        cover = new.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 640
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        picture = av.VideoFrame.from_ndarray(np.zeros((640, 640, 3), np.uint8), format="rgb24")
        new.mux(cover.encode(picture))
        new.mux(cover.encode(None))
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    with av.open(str(covered)) as container:
        films = [s for s in container.streams.video if Disposition.attached_pic not in Disposition(s.disposition)]
        assert len(films) == 1
        start = next(container.decode(films[0])).time
    write(tmp_path / "out.mp4", covered)
    heard, expected = (np.argmax(loudness(p) > 0.4) / 100 for p in (tmp_path / "out.mp4", covered))
    assert heard == pytest.approx(expected - start, abs=0.021)


def test_a_missing_source_of_sound_is_refused_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"nothing\.mp4: no such audio source"):
        write(tmp_path / "out.mp4", tmp_path / "nothing.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_and_pictures_lie_side_by_side_in_the_file(codec: str, tmp_path: Path):
    source = make_film(tmp_path / "a.mkv", codec, seconds=4)
    write(tmp_path / "out.mp4", source, 100)
    with av.open(str(tmp_path / "out.mp4")) as container:
        found = [(p.pos, p.stream.type, float(p.pts * p.time_base)) for p in container.demux() if p.size]
    reached = {"video": 0.0, "audio": 0.0}
    for _, kind, time in sorted(found):
        reached[kind] = time
        assert abs(reached["video"] - reached["audio"]) < 0.5
    assert min(reached.values()) > 3.9


def test_a_relative_name_with_a_colon_is_a_file_and_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """FFmpeg would ask the net for the first one, and read its standard input for the second."""
    monkeypatch.chdir(tmp_path)
    source = make_film(tmp_path / "a.mp4", "aac")
    write(tmp_path / "plain.mp4", source)
    for name in ("http:talk.mp4", "pipe:0", "12:30 interview.mp4"):
        Path(name).write_bytes(source.read_bytes())
        content = write(Path(f"out {name}.mp4"), Path(name))
        assert len(content.pictures) == SHOWN
        assert packets(tmp_path / f"out {name}.mp4") == packets(tmp_path / "plain.mp4") != []
