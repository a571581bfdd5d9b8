"""Face clips: the same pixels with and without cache, in a bounded memory."""

import os
import pickle
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.transforms import LoadFaceClip
from hocp_mm.datasets.transforms.loading import ClipCache
from hocp_mm.errors import DataError
from tests.material.afew_va_files import SQUEEZED, squeezed_number
from tests.material.sewa_files import SQUARE, draw_number, read_number, write_numbered_avi

COUNT = 30


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A video whose box wanders and has a hole."""
    path = write_numbered_avi(tmp_path_factory.mktemp("loading") / "v.avi", range(COUNT))
    boxes = np.array(SQUARE, np.float32) + np.sin(np.arange(COUNT) / 3)[:, None] * np.float32([9, 2, 9, 2])
    boxes[4] = np.nan
    return {"filename": str(path), "num_frames": COUNT, "boxes": boxes.astype(np.float32)}


def _load(transform, record, indices):
    return transform({**record, "frame_inds": np.array(indices)})["imgs"]


@pytest.mark.parametrize("whole_frame", [False, True])
def test_pixels_are_the_same_with_and_without_cache(record, whole_frame):
    record = {**record, "boxes": None} if whole_frame else record
    plain, cached = LoadFaceClip(40), LoadFaceClip(40, cache_mb=8)
    for indices in ([5, 6, 7], [29, 0, 0, 13], [28, 29, -1]):
        expected = _load(plain, record, indices)
        assert expected.shape == (len(indices), 40, 40, 3)
        np.testing.assert_array_equal(_load(cached, record, indices), expected)
    assert cached.cache.num_bytes == COUNT * 40 * 40 * 3
    assert plain.cache.num_bytes == 0


def test_the_crop_of_a_frame_does_not_depend_on_its_clip(record):
    load = LoadFaceClip(40)
    alone, among = _load(load, record, [12]), _load(load, record, [2, 12, 25])
    np.testing.assert_array_equal(alone[0], among[1])


def test_the_cached_video_is_not_what_the_caller_gets(record):
    load = LoadFaceClip(40, cache_mb=8)
    first = _load(load, record, [3])
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(_load(load, record, [3]), kept)


def test_padding_repeats_the_last_frame(record):
    imgs = _load(LoadFaceClip(40), record, [COUNT - 1, -1, -1])
    np.testing.assert_array_equal(imgs[1], imgs[0])
    np.testing.assert_array_equal(imgs[2], imgs[0])


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_a_video_that_became_shorter_is_named(record, cache_mb):
    longer = {**record, "num_frames": COUNT + 2, "boxes": None}
    with pytest.raises(DataError, match=r"v\.avi: frame \d+ was asked for, but the stream ends after 30 frames"):
        _load(LoadFaceClip(40, cache_mb=cache_mb), longer, [COUNT + 1])


def test_the_cache_keeps_its_bound_and_the_right_videos():
    cache = ClipCache(max_bytes=20)
    loads = []

    def get(key, size=10):
        def load():
            loads.append(key)
            return np.zeros(size, np.uint8)

        return cache.get(key, size, load)

    assert get("a") is get("a")  # kept
    assert get("b") is not None  # fits
    assert get("c") is None  # full: a passer-by
    assert get("c") is not None  # twice in a row: a is the oldest and goes
    assert get("b") is not None  # still there
    assert get("d", 21) is None  # larger than the bound
    assert get("d", 21) is None
    assert loads == ["a", "b", "c"]
    assert cache.num_bytes == 20


def test_the_cache_does_not_travel_to_other_processes(record):
    load = LoadFaceClip(40, cache_mb=8)
    _load(load, record, [3])
    assert len(pickle.dumps(load)) < 1000
    np.testing.assert_array_equal(_load(pickle.loads(pickle.dumps(load)), record, [3]), _load(load, record, [3]))


@pytest.fixture
def single_threaded_opencv():
    """Do what mmengine's Runner does before workers start: OpenCV's thread pool does not survive a fork."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    yield
    cv2.setNumThreads(threads)


@pytest.mark.usefixtures("single_threaded_opencv")
def test_frames_survive_the_fork_of_data_loader_workers(sewa_root):
    """A reader that is carried through a fork hangs; ours are opened in the worker."""
    from torch.utils.data import DataLoader

    steps = [{"type": "SampleClip", "clip_len": 4}, {"type": "LoadFaceClip", "size": 32, "cache_mb": 4}]
    dataset = SEWADataset(sewa_root, pipeline=[*steps, {"type": "PackAffectInputs"}], clips_per_video=4)
    dataset[0]
    loader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=list, timeout=300)
    assert sum(len(batch) for batch in loader) == len(dataset)


BAD_SETTINGS = [{"size": 0}, {"size": 8, "margin": 0}, {"size": 8, "smooth": 0}, {"size": 8, "cache_mb": -1}]


@pytest.mark.parametrize("settings", BAD_SETTINGS, ids=str)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="LoadFaceClip: size and smooth must be 1 or more"):
        LoadFaceClip(**settings)


# Frames that are image files.

NUMBERS = range(40, 52)


@pytest.fixture
def images(tmp_path):
    """A record of 12 squeezed frames, of which 0, 5, 6 and 11 have no file; the box wanders."""
    files = []
    for frame, number in enumerate(NUMBERS):
        file = tmp_path / f"{frame:05d}.png"
        if frame not in (0, 5, 6, 11):
            Image.fromarray(squeezed_number(number)).save(file)
        files.append(str(file) if frame not in (0, 5, 6, 11) else "")
    boxes = np.array(SQUEEZED, np.float32) + np.sin(np.arange(12) / 3)[:, None] * np.float32([3, 2, 3, 2])
    boxes[4] = np.nan
    return {
        "filename": str(tmp_path),
        "frame_files": files,
        "pixel_aspect": 4 / 3,
        "num_frames": 12,
        "boxes": boxes.astype(np.float32),
    }


@pytest.mark.parametrize("whole_frame", [False, True])
def test_pixels_of_image_files_are_the_same_with_and_without_cache(images, whole_frame):
    record = {**images, "boxes": None} if whole_frame else images
    plain, cached = LoadFaceClip(40), LoadFaceClip(40, cache_mb=8)
    for indices in ([2, 3, 4], [11, 0, 0, 7], [9, 10, -1], [5]):
        expected = _load(plain, record, indices)
        assert expected.shape == (len(indices), 40, 40, 3)
        np.testing.assert_array_equal(_load(cached, record, indices), expected)
    assert cached.cache.num_bytes == 12 * 40 * 40 * 3


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_each_frame_shows_its_own_file_and_a_frame_without_one_the_last_before_it(images, cache_mb):
    imgs = _load(LoadFaceClip(48, margin=1.0, smooth=1, cache_mb=cache_mb), images, range(12))
    shown = [1, 1, 2, 3, 4, 4, 4, 7, 8, 9, 10, 10]
    assert [read_number(img) for img in imgs] == [NUMBERS[index] for index in shown]
    np.testing.assert_array_equal(imgs[6], imgs[4])  # with the crop of the frame that is shown


@pytest.mark.parametrize("aspect", [4 / 3, 0.75, 1.0])
def test_the_crop_is_the_same_whatever_the_shape_of_the_pixels(tmp_path, aspect):
    """The same scene, stored with squeezed, stretched and square pixels, gives one crop."""
    scene = draw_number(0b101101)
    width, height = (round(320 / aspect), 240) if aspect > 1 else (320, round(240 * aspect))
    Image.fromarray(cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA)).save(tmp_path / "0.png")
    scale = np.array([width / 320, height / 240] * 2, np.float32)
    record = {"filename": "", "frame_files": [str(tmp_path / "0.png")], "num_frames": 1, "pixel_aspect": aspect}
    face = np.float32([[100, 60, 220, 180]])
    crop = _load(LoadFaceClip(120, margin=1.0), {**record, "boxes": face * scale}, [0])[0]
    np.testing.assert_allclose(crop[8:-8, 8:-8].mean(), scene[68:172, 108:212].mean(), atol=1)
    assert np.abs(crop.astype(int) - scene[60:180, 100:220]).mean() < 6  # squeezing blurs the edges of the blocks
    whole = _load(LoadFaceClip(320), {**record, "boxes": None}, [0])[0]
    assert np.abs(whole[40:280].astype(int) - scene).mean() < 6


def test_an_aspect_of_a_video_counts_too(record):
    square = {**record, "boxes": None}
    wide = _load(LoadFaceClip(320), {**square, "pixel_aspect": 0.75}, [29])[0]  # 320x240 shown as 320x320
    assert np.abs(cv2.resize(wide, (320, 240)).astype(int) - draw_number(29)).mean() < 2
    assert np.abs(wide.astype(int) - _load(LoadFaceClip(320), square, [29])[0]).mean() > 4


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_a_damaged_image_file_is_named_and_gives_no_picture(images, cache_mb):
    file = images["frame_files"][3]
    os.truncate(file, 200)
    with pytest.raises(DataError, match=r"00003\.png: the PNG is cut"):
        _load(LoadFaceClip(40, cache_mb=cache_mb), images, [2, 3])


def test_two_records_of_one_folder_do_not_share_the_cache(images):
    load = LoadFaceClip(48, margin=1.0, smooth=1, cache_mb=8)
    fewer = {**images, "frame_files": [*images["frame_files"][:2], "", *images["frame_files"][3:]]}
    assert read_number(_load(load, images, [2])[0]) == NUMBERS[2]
    assert read_number(_load(load, fewer, [2])[0]) == NUMBERS[1]
    flat = {**images, "pixel_aspect": 1.0, "boxes": None}
    assert not np.array_equal(_load(load, flat, [2]), _load(load, {**images, "boxes": None}, [2]))


def test_one_full_size_image_is_held_at_a_time(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    record = {"filename": "", "frame_files": [str(tmp_path / "a.png")] * 40, "num_frames": 40, "boxes": None}
    load = LoadFaceClip(16)
    _load(load, record, [0])
    tracemalloc.start()
    _load(load, {**record, "frame_inds": None}, range(40))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * noise.nbytes  # file, checks, decoder and picture; 40 pictures would be 24 MB


def test_one_file_per_frame_is_demanded(images):
    with pytest.raises(ValueError, match="frame_files must name one file per frame, got 12 for 13"):
        _load(LoadFaceClip(40), {**images, "num_frames": 13}, [0])
