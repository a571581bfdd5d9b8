"""What `LoadFaceClip` gives from a store: the pictures, a smaller cut of them, or an error; never a blur."""

import pathlib

import cv2
import numpy as np
import pytest

from hocp_mm.data_check.reading import read_record
from hocp_mm.datasets.faces.boxes import crop_faces
from hocp_mm.datasets.faces.crops import stored_square
from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.store import CropSettings, read_index
from hocp_mm.datasets.transforms import LoadFaceClip
from hocp_mm.errors import DataError, MissingDataError
from tests.material.store_files import SIZE, picture, write_store

CROPS = [picture(0), None, picture(2), picture(3), None, picture(5)]


def record_of(folder, crops=CROPS, **settings):
    crop = CropSettings(**({"size": SIZE, "margin": 1.5, "codec": "png"} | settings))
    return read_index(write_store(folder, {"clip": crops}, crop) / "index.npz")[0].results()


@pytest.fixture
def record(tmp_path):
    return record_of(tmp_path / "store")


def load(transform, record, indices):
    return transform({**record, "frame_inds": np.array(indices)})["imgs"]


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_the_pictures_of_the_store_come_as_they_are(record, cache_mb):
    transform = LoadFaceClip(SIZE, cache_mb=cache_mb)
    for indices in ([2, 3], [5, 0, 0], [3]):
        np.testing.assert_array_equal(load(transform, record, indices), [CROPS[index] for index in indices])


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_a_frame_without_picture_shows_the_last_one_and_padding_the_end(record, cache_mb):
    imgs = load(LoadFaceClip(SIZE, cache_mb=cache_mb), record, [0, 1, 2, 3, 4, 5, -1])
    np.testing.assert_array_equal(imgs, [CROPS[index] for index in (0, 0, 2, 3, 3, 5, 5)])


def test_a_start_without_picture_shows_the_first_one(tmp_path):
    record = record_of(tmp_path / "store", [None, None, picture(2)])
    np.testing.assert_array_equal(load(LoadFaceClip(SIZE), record, [0]), [picture(2)])


def test_the_cache_tells_images_of_one_pack_apart(tmp_path):
    """Hundreds of images share a file; a cache that knew them by its name would show one for all."""
    record = record_of(tmp_path / "store")
    parts = [{**record, "num_frames": 1, "pack": record["pack"].part(frame, frame + 1)} for frame in (0, 2, 3)]
    transform = LoadFaceClip(SIZE, cache_mb=8)
    for _ in range(2):
        for part, frame in zip(parts, (0, 2, 3), strict=True):
            np.testing.assert_array_equal(load(transform, part, [0]), [CROPS[frame]])


def test_a_smaller_size_averages(record):
    expected = cv2.resize(CROPS[3], (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
    crop = load(LoadFaceClip(SIZE // 2), record, [3])[0]
    assert np.abs(crop.astype(int) - expected).max() <= 1  # of rounding


def test_a_smaller_margin_is_a_cut_around_the_same_centre(record):
    """Margin 0.75 of 1.5: the middle half, pixel by pixel."""
    quarter = SIZE // 4
    crop = load(LoadFaceClip(SIZE // 2, margin=0.75), record, [2])[0]
    np.testing.assert_array_equal(crop, CROPS[2][quarter:-quarter, quarter:-quarter])


def test_a_cut_between_pixels_keeps_its_centre(record):
    """What lies in the middle of the stored picture lies in the middle of any cut of it."""
    ramp = np.broadcast_to(np.arange(SIZE)[:, None] * 4, (SIZE, SIZE))
    square = stored_square(record["crop"], True, 6, 20, 1.0, 25, 25.0, "clip")
    assert square is not None
    np.testing.assert_allclose(square, [[16 - 32 / 3, 16 - 32 / 3, 16 + 32 / 3, 16 + 32 / 3]])
    cut = crop_faces(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)[None], square, 20)[0]
    assert abs(cut.mean() - ramp.mean()) < 1


@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        ({"size": 33}, "wants size=33, margin=1.5; prepare it again with --size 33 --margin 1.5"),
        ({"size": 16, "margin": 1.6}, "wants size=16, margin=1.6; prepare it again with --size 16 --margin 1.6"),
        ({"size": 16, "margin": 1.53}, "wants size=16, margin=1.53; prepare it again with --size 16 --margin 1.53"),
        ({"size": 32, "margin": 1.2}, "wants size=32, margin=1.2; prepare it again with --size 40 --margin 1.5"),
        ({"size": 16, "smooth": 1}, "averaged with smooth=25, LoadFaceClip wants smooth=1; prepare the store again"),
    ],
    ids=["more pixels", "a wider cut", "a slightly wider cut", "more pixels in a narrower cut", "another average"],
)
def test_what_the_store_does_not_hold_is_refused(record, wanted, rule):
    with pytest.raises(DataError, match=rf"clip\.avi: .*{rule}"):
        load(LoadFaceClip(**wanted), record, [0])


def test_windows_that_average_the_same_frames_agree(record):
    """`smooth_boxes` counts an even window as the next odd one."""
    assert load(LoadFaceClip(SIZE, smooth=24), record, [0]).shape == (1, SIZE, SIZE, 3)


def test_one_frame_has_no_average(tmp_path):
    record = record_of(tmp_path / "store", [picture(4)])
    np.testing.assert_array_equal(load(LoadFaceClip(SIZE, smooth=1), record, [0]), [picture(4)])


def test_whole_frames_have_no_margin(tmp_path):
    record = record_of(tmp_path / "store", margin=None)
    assert record["boxes"] is None
    for margin in (0.5, 1.5, 3.0):
        np.testing.assert_array_equal(load(LoadFaceClip(SIZE, margin=margin, smooth=3), record, [3]), [CROPS[3]])
    with pytest.raises(DataError, match=r"holds whole frames of 32 pixels, LoadFaceClip wants size=40; .*--size 40"):
        load(LoadFaceClip(40), record, [0])


def test_jpeg_is_near_the_pictures(tmp_path):
    record = record_of(tmp_path / "store", codec="jpeg")
    crops = load(LoadFaceClip(SIZE), record, [0, 2, 3, 5]).astype(int)
    assert np.abs(crops - [CROPS[index] for index in (0, 2, 3, 5)]).max() <= 6


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_a_pack_that_went_bad_ends_in_an_error(record, cache_mb):
    with pathlib.Path(record["filename"]).open("r+b") as file:
        file.seek(int(record["pack"].offsets[2]) + 50)
        file.write(b"\x00\x01")
    with pytest.raises(DataError, match="the picture of frame 2 differs from its checksum"):
        load(LoadFaceClip(SIZE, cache_mb=cache_mb), record, [1, 2])


def test_a_pack_that_is_gone_is_named(record):
    with pytest.raises(MissingDataError, match=r"gone\.avi: no such pack"):
        load(LoadFaceClip(SIZE), {**record, "filename": "gone.avi"}, [0])


@pytest.mark.parametrize("size", [SIZE // 2, 2 * SIZE])
@pytest.mark.parametrize("codec", ["png", "jpeg"])
@pytest.mark.parametrize("wanted", [{"size": SIZE}, {"size": SIZE // 2, "margin": 0.75}])
def test_a_picture_of_another_size_is_refused_before_it_is_decoded(size, codec, wanted, tmp_path, monkeypatch):
    """Of a stranger: cut as one of the size of the store it would show another place, and it may fill the memory."""
    record = record_of(tmp_path / "store")
    other = record_of(tmp_path / "other", [picture(n, size) for n in range(6)], size=size, codec=codec)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=rf"must be a picture of {SIZE} x {SIZE} pixels .*, got {size} x {size}"):
        load(LoadFaceClip(**wanted), {**other, "crop": record["crop"]}, [0])
    faults = read_record(Record.from_results({**other, "crop": record["crop"]})).faults
    assert [fault.rpartition(" must ")[2] for fault in faults] == [f"be {SIZE}x{SIZE} pixels, got {size}x{size}."] * 6
