"""A whole set in SEWA's layout."""

import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from hocp_mm.datasets import SEWADataset, find_sewa_keys, parse_sewa_key, read_landmarks_zip, read_split_file
from hocp_mm.errors import DataError
from hocp_mm.synthetic import SyntheticClip, SyntheticSewaSpec, write_synthetic_sewa
from hocp_mm.synthetic import sewa as sewa_writer

FRAMES = 7
SMALL = {"subjects": (3, 1, 2), "clips_per_subject": 2, "frames": FRAMES, "seed": 4, "workers": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "sewa"
    assert write_synthetic_sewa(folder, **SMALL)
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_trace(file):
    header, *rows = file.read_text().splitlines()
    return header, np.array([[float(cell) for cell in row.split(",")] for row in rows])


def test_folders_hold_the_files_of_the_real_layout(root):
    keys = find_sewa_keys(root)
    assert len(keys) == 12
    traces = [f"{what}_{raters}_Aligned.csv" for what in ("Valence", "Arousal") for raters in ("A", "V", "AV")]
    for key in keys:
        expected = {"metadata.ini", f"{key}.avi", *(f"{key}_{name}" for name in (*traces, "Landmarks.zip"))}
        assert {path.name for path in (root / key).iterdir()} == expected
        assert f"Category={key[:3]}" in (root / key / "metadata.ini").read_text().splitlines()


def test_key_numbers_conversation_person_and_frames(root):
    spans = {}
    for key in find_sewa_keys(root):
        assert parse_sewa_key(key)
        _, _, conversation, person, recording, first, last = key.split("_")
        assert int(conversation[1:]) == (int(person[1:]) + 1) // 2
        assert recording == "VC1"
        assert int(last) - int(first) + 1 == FRAMES
        spans.setdefault(person, []).append((int(first), int(last)))
    assert len(spans) == 6
    for one, two in (sorted(clips) for clips in spans.values()):
        assert one[1] < two[0]  # segments of one recording do not overlap


def test_splits_name_every_clip_once_and_keep_conversations_together(root):
    parts = {part: read_split_file(root / "splits" / f"{part}.txt") for part in ("train", "val", "test")}
    assert [len(keys) for keys in parts.values()] == [6, 2, 4]
    assert sorted(key for keys in parts.values() for key in keys) == sorted(find_sewa_keys(root))
    conversations = [{key.split("_")[2] for key in keys} for keys in parts.values()]
    assert sum(len(names) for names in conversations) == len(set.union(*conversations))


def test_traces_have_one_row_per_frame_and_the_true_values(root):
    for key in find_sewa_keys(root):
        with av.open(str(root / key / f"{key}.avi")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == FRAMES
        person = int(key.split("_")[3][1:])
        clips = [SyntheticClip(SMALL["seed"], person, number, FRAMES) for number in range(2)]
        clip = min(clips, key=lambda clip: np.abs(clip[3].image.astype(int) - frames[3]).mean())
        assert np.abs(clip[3].image.astype(int) - frames[3]).mean() < 5
        for dimension in ("valence", "arousal"):
            stem = root / key / f"{key}_{dimension.capitalize()}"
            for raters in ("V", "AV"):
                header, rows = read_trace(Path(f"{stem}_{raters}_Aligned.csv"))
                assert header == f"frame,{dimension}"
                np.testing.assert_array_equal(rows[:, 0], np.arange(FRAMES))
                np.testing.assert_allclose(rows[:, 1], getattr(clip.affect, dimension), atol=1e-6)
            _, heard = read_trace(Path(f"{stem}_A_Aligned.csv"))
            assert 0 < np.abs(heard[:, 1] - rows[:, 1]).max() < 0.6
            assert np.abs(heard[:, 1]).max() <= 1


def test_landmarks_are_the_true_ones_but_for_a_small_jitter(root):
    key = find_sewa_keys(root)[0]
    file = root / key / f"{key}_Landmarks.zip"
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [f"{key}_{frame:05d}.txt" for frame in range(FRAMES)]
        pose, eyes, points = archive.read(archive.namelist()[0]).decode().splitlines()
    assert [len(line.split()) for line in (pose, eyes, points)] == [3, 4, 98]
    points = read_landmarks_zip(file, FRAMES)
    assert points.shape == (FRAMES, 49, 2)
    person = int(key.split("_")[3][1:])
    truths = [SyntheticClip(SMALL["seed"], person, number, FRAMES)[3].landmarks for number in range(2)]
    error = min(np.abs(points[3] - truth).mean() for truth in truths)
    assert 0.1 < error < 1


def test_dataset_of_the_real_layout_reads_the_set(root):
    for part, clips in (("train", 6), ("val", 2), ("test", 4)):
        videos = SEWADataset(str(root), part).load_videos()
        assert len(videos) == clips
        for video in videos:
            assert video["num_frames"] == FRAMES
            assert video["affect"].shape == (FRAMES, 2)
            assert video["valid"].all()
            assert video["face_found"].all()
            _, rows = read_trace(root / video["video"] / f"{video['video']}_Valence_V_Aligned.csv")
            np.testing.assert_allclose(video["affect"][:, 0], rows[:, 1], atol=1e-6)


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    numbers = {"subjects": (1, 1, 0), "frames": 4, "seed": 1}
    write_synthetic_sewa(tmp_path / "one", **numbers, workers=1)
    write_synthetic_sewa(tmp_path / "two", **numbers, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_second_run_with_the_same_numbers_does_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert not write_synthetic_sewa(root, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_numbers_are_refused_unless_overwriting_is_allowed(tmp_path):
    numbers = {"subjects": (1, 0, 0), "frames": 2, "workers": 1}
    folder = tmp_path / "sewa"
    folder.mkdir()  # an empty folder is as good as none
    assert write_synthetic_sewa(folder, **numbers, seed=0)
    before = content(folder)
    with pytest.raises(DataError, match="made with other numbers"):
        write_synthetic_sewa(folder, **numbers, seed=1)
    assert content(folder) == before
    assert write_synthetic_sewa(folder, **numbers, seed=1, overwrite=True)
    assert content(folder) != before
    assert [path.name for path in tmp_path.iterdir()] == ["sewa"]


def test_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "precious.avi").write_bytes(b"real data")
    with pytest.raises(DataError, match="new or empty folder"):
        write_synthetic_sewa(tmp_path, subjects=(1, 0, 0), frames=2, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.avi"]


def test_failure_leaves_neither_a_set_nor_a_draft(tmp_path, monkeypatch):
    write = sewa_writer.write_sewa_clip
    written = []

    def fail_second(*args):
        if written:
            raise OSError("disk full")
        written.append(args)
        write(*args)

    monkeypatch.setattr(sewa_writer, "write_sewa_clip", fail_second)
    with pytest.raises(OSError, match="disk full"):
        write_synthetic_sewa(tmp_path / "sewa", subjects=(2, 0, 0), frames=2, workers=1)
    assert written
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_clips(tmp_path):
    seen = []
    write_synthetic_sewa(
        tmp_path / "sewa", (1, 1, 0), frames=2, workers=1, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ({"subjects": (0, 0, 0)}, "not all 0"),
        ({"subjects": (1, -1, 1)}, "three counts"),
        ({"subjects": (990, 1, 0)}, "three digits"),
        ({"frames": 1}, "frames must be at least 2"),
        ({"clips_per_subject": 0}, "clips must be at least 1"),
        ({"clips_per_subject": 1000, "frames": 1000}, "below a million"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"motion_share": 1.5}, "motion_share must lie in"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, rule):
    with pytest.raises(ValueError, match=rule):
        SyntheticSewaSpec(**numbers)
