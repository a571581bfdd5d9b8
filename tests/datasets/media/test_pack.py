"""Packs give back the pictures that were written, exactly or within a bound, or one error that names the frame."""

import os
import zlib

import av
import cv2
import numpy as np
import pytest

from hocp_mm.datasets.store import PackTable, read_pack, write_pack
from hocp_mm.errors import DataError, MissingDataError
from tests.material.store_files import SIZE, picture

COUNT = 6


@pytest.fixture
def pack(tmp_path):
    path = tmp_path / "clip.avi"
    return path, write_pack(path, map(picture, range(COUNT)), SIZE, 25.0)


def test_png_gives_the_very_pixels_back(tmp_path):
    crops = [picture(number) for number in range(COUNT)]
    table = write_pack(tmp_path / "a.avi", crops, SIZE, 25.0, "png")
    assert np.array_equal(read_pack(tmp_path / "a.avi", table, range(COUNT)), crops)


def test_jpeg_is_off_by_a_little(pack):
    """RGB of smooth pictures within 6 of 255 everywhere and 1.5 on average: quality 95 and no chroma thrown away."""
    path, table = pack
    error = np.abs(read_pack(path, table, range(COUNT)).astype(int) - [picture(number) for number in range(COUNT)])
    assert error.max() <= 6
    assert error.mean() <= 1.5


def test_chroma_is_stored_in_full(pack):
    """Red and green columns of one pixel keep their colour; half the columns' chroma would make both brown."""
    path, _ = pack
    stripes = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 1] = 200, 200
    table = write_pack(path, [stripes], SIZE, 25.0)
    assert np.abs(read_pack(path, table, [0])[0].astype(int) - stripes).mean() < 12


@pytest.mark.parametrize("indices", [[3], [5, 0, 3], [2, 2, 1, 2], [0, 5], [4, 3, 2, 1, 0]])
def test_pictures_come_in_the_order_asked_for(pack, indices):
    path, table = pack
    everything = read_pack(path, table, range(COUNT))
    assert np.array_equal(read_pack(path, table, indices), everything[indices])
    assert len({crop.tobytes() for crop in everything}) == COUNT


def test_pixels_are_those_of_an_independent_decoder(pack):
    """OpenCV decodes the bytes at the offsets; FFmpeg plays the file as a video of as many frames."""
    path, table = pack
    raw = path.read_bytes()
    for frame, crop in enumerate(read_pack(path, table, range(COUNT))):
        data = raw[table.offsets[frame] :][: table.sizes[frame]]
        assert zlib.crc32(data) == table.checksums[frame]
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], crop)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 25
    assert np.abs(np.stack(frames).astype(int) - read_pack(path, table, range(COUNT))).max() <= 4


def test_frames_without_a_picture_take_no_bytes_and_keep_their_number(tmp_path):
    path = tmp_path / "a.avi"
    crops = [None, picture(1), None, None, picture(4), None]
    table = write_pack(path, crops, SIZE, 25.0, "png")
    assert (table.sizes > 0).tolist() == [crop is not None for crop in crops]
    assert np.array_equal(read_pack(path, table, [4, 1]), [picture(4), picture(1)])
    with pytest.raises(ValueError, match="a frame must have a picture, but frame 2 has none"):
        read_pack(path, table, [1, 2])
    with pytest.raises(ValueError, match="indices must be 0 to 5, got 4 to 6"):
        read_pack(path, table, [4, 6])


def test_a_part_of_a_table_reads_its_own_frames(pack):
    path, table = pack
    assert np.array_equal(read_pack(path, table.part(2, 4), [0, 1]), read_pack(path, table, [2, 3]))


@pytest.mark.parametrize("fps", [25.0, 29.97, 23.976, 0.0, 12.5])
def test_the_same_crops_give_the_same_bytes(tmp_path, fps):
    tables = [write_pack(tmp_path / name, map(picture, range(3)), SIZE, fps) for name in ("a.avi", "b.avi")]
    assert (tmp_path / "a.avi").read_bytes() == (tmp_path / "b.avi").read_bytes()
    assert np.array_equal(tables[0].offsets, tables[1].offsets)


def test_neighbours_come_with_one_read(pack, monkeypatch):
    path, table = pack
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: reads.append(args[1:]) or pread(*args))
    read_pack(path, table, range(COUNT))
    assert reads == [(int(table.offsets[-1] + table.sizes[-1] - table.offsets[0]), int(table.offsets[0]))]


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    def crops():
        yield picture(0)
        raise RuntimeError("damaged")

    with pytest.raises(RuntimeError, match="damaged"):
        write_pack(tmp_path / "a.avi", crops(), SIZE, 25.0)
    with pytest.raises(ValueError, match="at least one frame must have a picture, got none of 2"):
        write_pack(tmp_path / "a.avi", [None, None], SIZE, 25.0)
    with pytest.raises(ValueError, match=r"crops must be uint8 \[32, 32, 3\], got uint8 \[16, 16, 3\]"):
        write_pack(tmp_path / "a.avi", [picture(0, 16)], SIZE, 25.0)
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_in_the_middle_of_a_picture_is_found(pack):
    """Every reader of JPEG gives a picture for it; only the checksum knows."""
    path, table = pack
    raw = bytearray(path.read_bytes())
    middle = int(table.offsets[3] + table.sizes[3] - 20)
    raw[middle] ^= 1
    path.write_bytes(raw)
    data = np.frombuffer(bytes(raw[table.offsets[3] :][: table.sizes[3]]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    with pytest.raises(DataError, match=r"clip\.avi: the picture of frame 3 differs from its checksum in the index"):
        read_pack(path, table, range(COUNT))
    assert len(read_pack(path, table, [0, 1, 2, 4, 5])) == 5


def test_a_pack_that_is_cut_missing_or_a_folder_is_refused(pack, tmp_path):
    path, table = pack
    raw = path.read_bytes()
    end = int(table.offsets[4])
    path.write_bytes(raw[: end + 10])
    with pytest.raises(
        DataError, match=rf"clip\.avi: the pack must hold \d+ bytes or more, but it ends after {end + 10}"
    ):
        read_pack(path, table, [2, 4])
    assert len(read_pack(path, table, [2, 3])) == 2
    with pytest.raises(MissingDataError, match=r"no\.avi: no such pack; the store must be copied whole"):
        read_pack(tmp_path / "no.avi", table, [0])
    with pytest.raises(DataError, match="the pack cannot be read"):
        read_pack(tmp_path, table, [0])


def test_packs_that_were_swapped_are_found(pack, tmp_path):
    path, table = pack
    write_pack(tmp_path / "other.avi", map(picture, range(10, 10 + COUNT)), SIZE, 25.0)
    (tmp_path / "other.avi").replace(path)
    with pytest.raises(DataError, match=r"differs from its checksum in the index .*damaged, or another pack"):
        read_pack(path, table, [0])


def test_a_writer_notices_a_disk_that_returns_other_bytes(tmp_path, monkeypatch):
    sums = iter(range(9))
    monkeypatch.setattr("hocp_mm.datasets.media.pack.zlib.crc32", lambda data: next(sums))
    with pytest.raises(DataError, match="frame 0 reads back other bytes than were written"):
        write_pack(tmp_path / "a.avi", [picture(0)], SIZE, 25.0)


def test_tables_are_cut_by_frames():
    table = PackTable(np.arange(3), np.ones(3, np.int32), np.arange(3, dtype=np.uint32))
    assert (len(table), len(table.part(1, 3)), table.part(1, 3).offsets.tolist()) == (3, 2, [1, 2])
