"""Every frame of a record against its files: what is whole is read, what is not is named."""

import os
import re
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hocp_mm.data_check.reading import Reading, check_clip, read_record
from hocp_mm.datasets.records.record import Record
from hocp_mm.registry import TRANSFORMS
from tests.material.affectnet_files import write_picture
from tests.material.sewa_files import HEIGHT, SQUARE, WIDTH, write_numbered_avi

PIPELINE = [
    {"type": "hocp_mm.SampleClip", "clip_len": 4},
    {"type": "hocp_mm.LoadFaceClip", "size": 32},
    {"type": "hocp_mm.PackAffectInputs"},
]


def record_of(filename, count, **changes):
    record = {
        "video": "a",
        "filename": str(filename),
        "num_frames": count,
        "fps": 25.0,
        "subject": "S1",
        "affect": np.zeros((count, 2), np.float32),
        "valid": np.ones(count, bool),
        "boxes": np.tile(np.array(SQUARE, np.float32), (count, 1)),
        "face_found": np.ones(count, bool),
    }
    return record | changes


def read(record):
    """What is found in a record in a pipeline's words."""
    return read_record(Record.from_results(record))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_numbered_avi(tmp_path_factory.mktemp("video") / "a.avi", range(30))


@pytest.fixture
def images(tmp_path):
    files = [str(tmp_path / f"{frame}.png") for frame in range(4)]
    for frame in range(4):
        write_picture(tmp_path / f"{frame}.png", grey=40 + frame)
    return files


def image_record(files, **changes):
    boxes = np.tile(np.array([4, 4, 40, 40], np.float32), (len(files), 1))
    return record_of("folder", len(files), frame_files=files, boxes=boxes, **changes)


def test_a_whole_video_and_whole_images_are_read(video, images):
    reading = read(record_of(video, 30))
    assert (reading.way, reading.faults) == ("video, in order", ())  # one key frame: nothing to jump to
    reading = read(image_record(["", *images[1:]]))
    assert (reading.way, reading.faults) == ("images", ())


def test_a_video_that_is_shorter_than_its_record_is_a_fault(video):
    (fault,) = read(record_of(video, 31)).faults
    assert fault.kind == "lengths"
    assert fault == f"{video}: must hold the 31 frames of its record, got 30."


@pytest.mark.parametrize("kept", [0.6, 0.05])
def test_a_cut_video_is_a_fault_of_the_video(video, tmp_path, kept):
    raw = video.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(raw[: int(kept * len(raw))])
    reading = read(record_of(cut, 30))
    assert reading.way == ""
    assert [(fault.kind, fault.file) for fault in reading.faults] == [("video", str(cut))]


def test_a_video_that_is_not_there_is_missing(tmp_path):
    (fault,) = read(record_of(tmp_path / "none.avi", 3)).faults
    assert fault.kind == "video missing"


def test_a_face_beside_the_frame_is_told_where_the_size_is_known(video, images):
    boxes = np.tile(np.array(SQUARE, np.float32), (30, 1))
    boxes[7] = (WIDTH, 10, WIDTH + 50, 60)
    boxes[9] = np.nan
    (fault,) = read(record_of(video, 30, boxes=boxes)).faults
    assert fault.kind == "faces"
    assert f"the {WIDTH}x{HEIGHT} frame" in fault
    assert "in frame 7 (1 such frames)" in fault
    (fault,) = read(image_record(images) | {"boxes": boxes[:4] - 400}).faults
    assert "64x48 frame" in fault


def test_every_damaged_image_of_a_clip_is_named(images, tmp_path):
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "2.png").unlink()
    write_picture(tmp_path / "3.png", size=(32, 48))
    faults = read(image_record(images)).faults
    assert [(fault.kind, fault.file) for fault in faults] == [
        ("image", images[1]),
        ("image missing", images[2]),
        ("image", images[3]),
    ]
    assert f"must have one size, got 32x48 after 64x48 ({images[0]})" in faults[2]


@pytest.fixture
def pack(tmp_path):
    """A pack of four crops, of which frame 2 has none, with something between the pictures."""
    pictures = [cv2.imencode(".png", np.full((16, 16, 3), 40 * n, np.uint8))[1].tobytes() for n in range(4)]
    pictures[2] = b""
    raw, offsets = b"RIFF", []
    for picture in pictures:
        offsets.append(len(raw) if picture else 0)
        raw += picture + b"00dc"
    (tmp_path / "a.avi").write_bytes(raw)
    table = SimpleNamespace(
        offsets=np.array(offsets), sizes=np.array([*map(len, pictures)]), checksums=[*map(zlib.crc32, pictures)]
    )
    valid = np.array([True, True, False, True])
    return record_of(tmp_path / "a.avi", 4, pack=table, crop=SimpleNamespace(size=16), valid=valid)


def test_every_crop_of_a_pack_is_compared_with_its_checksum(pack):
    assert read(pack) == Reading("face crops", ())
    path, table = Path(pack["filename"]), pack["pack"]
    raw = bytearray(path.read_bytes())
    raw[table.offsets[0] + 20] ^= 1
    path.write_bytes(raw[: table.offsets[3] + 5])
    faults = read(pack).faults
    assert [(fault.kind, fault.file) for fault in faults] == [("crops", str(path))] * 2
    assert ["frame 0 of 'a' differs" in faults[0], "frame 3 of 'a' differs" in faults[1]] == [True, True]
    path.unlink()
    assert [fault.kind for fault in read(pack).faults] == ["crops missing"]


def test_a_pack_of_other_pictures_than_its_index_promises(pack):
    pack["valid"][2] = True
    pack["crop"].size = 20
    faults = read(pack).faults
    assert [fault.kind for fault in faults] == ["crops", "crops", "crops", "labels"]
    assert "frame 0 of 'a' must be 20x20 pixels, got 16x16" in faults[0]
    assert "must not be valid, but frame 2 is" in faults[3]


def test_whatever_a_decoder_raises_is_a_fault_of_the_file(video, monkeypatch):
    def explode(*_args, **_options):
        raise IndexError("no such plane")

    monkeypatch.setattr("hocp_mm.data_check.reading.check_random_access", explode)
    (fault,) = read(record_of(video, 30)).faults
    assert fault.kind == "crash"
    assert fault == f"{video}: reading a fails (IndexError: no such plane)."


def pipeline(*more):
    steps = [TRANSFORMS.build(dict(step)) for step in PIPELINE] + list(more)

    def run(record):
        for step in steps:
            record = step(record)
        return record

    return run


def test_a_clip_that_a_network_can_take_has_no_fault(video):
    assert check_clip(pipeline(), record_of(video, 30)).faults == ()


BROKEN = {
    "no dict": (lambda packed: [packed], "must end in inputs and data_samples, got list"),
    "not packed": (lambda packed: {"imgs": 1}, "must end in inputs and data_samples, got imgs"),
    "no frames": (
        lambda packed: packed | {"inputs": packed["inputs"][0]},
        r"must be \[3, T, H, W\], got \[4, 32, 32\]",
    ),
    "other frames": (lambda packed: packed | {"inputs": packed["inputs"][:, 1:]}, "same frames, got 3 and 4"),
    "raises": (lambda packed: packed["label"], r"must give a clip, but fails \(KeyError: 'label'\)"),
}


@pytest.mark.parametrize(("step", "text"), BROKEN.values(), ids=BROKEN)
def test_a_clip_that_a_network_cannot_take_is_a_fault_of_the_pipeline(video, step, text):
    (fault,) = check_clip(pipeline(step), record_of(video, 30)).faults
    assert (fault.kind, fault.file) == ("pipeline", str(video))
    assert re.search(text, fault)


def test_a_pack_that_is_no_file_is_told_and_not_waited_for(tmp_path):
    table = SimpleNamespace(offsets=np.array([0]), sizes=np.array([4]), checksums=np.array([0]))
    record = record_of(tmp_path / "a.avi", 1, pack=table, crop=SimpleNamespace(size=8))
    os.mkfifo(tmp_path / "a.avi")
    (fault,) = read(record).faults
    assert (fault.kind, fault) == ("crops", f"{tmp_path / 'a.avi'}: the pack cannot be read (Is a named pipe).")
