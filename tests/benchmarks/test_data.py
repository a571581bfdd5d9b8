"""What the data benchmark claims: right frames are told from wrong ones, and loading does not eat memory."""

import statistics
from pathlib import Path

import pytest

from benchmarks import data_memory, data_throughput
from benchmarks.data_sets import RAW, STOCK, STORE, make_clips, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short videos as raw folders and as a store."""
    place = tmp_path_factory.mktemp("data")
    write_data(place, videos=2, frames=40, report=lambda text: None)
    return place


@pytest.mark.slow
def test_all_pipelines_give_clips_of_one_shape_and_speeds_are_compared(folder: Path, monkeypatch: pytest.MonkeyPatch):
    shapes = set()
    for kind in (STOCK, RAW, STORE):
        inputs = make_clips(kind, folder)[0]["inputs"]
        shapes.add((inputs.dtype, tuple(inputs.shape[-4:])))
    assert len(shapes) == 1
    monkeypatch.setattr(data_throughput, "CLIPS", dict.fromkeys((STOCK, RAW, STORE), 4))
    speeds = data_throughput.measure_speeds(folder, seconds=0)
    assert all(speed > 0 for ways in speeds.values() for speed in ways.values())


@pytest.mark.slow
def test_wrong_frames_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch):
    files = sorted((folder / "sewa").glob("*/*.avi"))
    frames = len(files) * data_throughput.CHECKED_CLIPS * 16
    assert data_throughput.count_wrong_raw(files) == 0
    assert 0 <= data_throughput.count_wrong_stock(files) <= frames
    read = data_throughput.read_frames
    monkeypatch.setattr(data_throughput, "read_frames", lambda file, inds: read(file, inds[::-1]))
    assert data_throughput.count_wrong_raw(files) > 0.9 * frames


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RAW, STORE])
def test_random_clips_do_not_eat_memory(folder: Path, kind: str):
    found = data_memory.measure_memory(kind, folder, clips=1200)
    # One clip of twenty kept by mistake would be 75 MB on some 400.
    assert abs(found["growth"]) < 0.05
    assert statistics.median(found["curve"].values()) > 50  # it is the process that loads that is measured
