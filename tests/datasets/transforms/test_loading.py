"""Face clips: the same pixels with and without cache, in a bounded memory."""

import pickle

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.transforms import LoadFaceClip
from hocp_mm.datasets.transforms.loading import ClipCache
from hocp_mm.errors import DataError
from tests.sewa_files import SQUARE, write_numbered_avi

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
