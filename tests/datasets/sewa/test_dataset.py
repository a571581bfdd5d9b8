"""SEWADataset: exact pairs of frame and label, and one clear error for every fault of the data."""

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.splits import write_split_files
from hocp_mm.datasets.transforms import LoadFaceClip, PackAffectInputs, SampleClip, window_starts
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS
from tests.material.sewa_files import (
    KEYS,
    SQUARE,
    arousal_of,
    read_number,
    square_landmarks,
    valence_of,
    write_landmarks_zip,
    write_numbered_avi,
)

COUNT = 40
FIRST_NUMBER = {KEYS[0]: 0, KEYS[1]: COUNT}  # what the first frame of a segment shows


def _pipeline(clip_len=8, mode="random", frame_interval=1, **loading):
    return [
        SampleClip(clip_len, frame_interval, mode),
        LoadFaceClip(size=48, margin=1.0, **loading),
        PackAffectInputs(),
    ]


def _numbers(sample):
    """Return the numbers that the frames of a packed sample show."""
    return [read_number(frame) for frame in sample["inputs"].permute(1, 2, 3, 0).numpy()]


def _assert_pairs_are_exact(sample):
    """Every frame must show the number asked for, and bear the labels of that number."""
    data = sample["data_samples"]
    assert data.groups == {"person": re.search("P[0-9]+", data.video)[0], "culture": data.video.split("_")[1]}
    first = FIRST_NUMBER[data.video]
    real = [index for index in data.frame_inds if index >= 0]
    numbers = _numbers(sample)
    assert numbers[: len(real)] == [first + index for index in real]
    expected = np.array([[valence_of(n), arousal_of(n)] for n in numbers[: len(real)]], np.float32)
    np.testing.assert_array_equal(data.gt_affect[: len(real)].numpy(), expected)
    assert data.gt_valid.tolist() == [index >= 0 for index in data.frame_inds]


@pytest.mark.parametrize("cache_mb", [0, 64], ids=["decoded anew", "cached"])
@pytest.mark.parametrize("frame_interval", [1, 3])
def test_random_clips_pair_each_label_with_its_own_frame(sewa_root, cache_mb, frame_interval):
    pipeline = _pipeline(cache_mb=cache_mb, frame_interval=frame_interval)
    dataset = SEWADataset(sewa_root, pipeline=pipeline, clips_per_video=12)
    assert len(dataset) == 24
    starts = set()
    for index in range(len(dataset)):
        sample = dataset[index]
        _assert_pairs_are_exact(sample)
        starts.add((sample["data_samples"].video, sample["data_samples"].frame_inds[0]))
    assert len(starts) > 8  # random clips, not one clip repeated


def test_windows_show_every_frame_and_pair_it_with_its_label(sewa_root):
    windows = {"clip_len": 16, "stride": 9}
    dataset = SEWADataset(sewa_root, pipeline=_pipeline(16, "window"), windows=windows, test_mode=True)
    seen = {key: set() for key in KEYS}
    for index in range(len(dataset)):
        sample = dataset[index]
        _assert_pairs_are_exact(sample)
        seen[sample["data_samples"].video].update(_numbers(sample))
    assert seen == {key: set(range(first, first + COUNT)) for key, first in FIRST_NUMBER.items()}


def test_a_video_shorter_than_the_clip_is_padded_and_padding_is_not_valid(sewa_root):
    windows = {"clip_len": COUNT + 5, "stride": 1}
    dataset = SEWADataset(sewa_root, pipeline=_pipeline(COUNT + 5, "window"), windows=windows, test_mode=True)
    assert len(dataset) == len(KEYS)
    sample = dataset[0]
    _assert_pairs_are_exact(sample)
    assert sample["data_samples"].frame_inds == [*range(COUNT), *[-1] * 5]
    assert _numbers(sample)[COUNT:] == [COUNT - 1] * 5


@given(st.integers(1, 90), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
def test_windows_cover_every_frame(num_frames, clip_len, stride, interval):
    stride = min(stride, clip_len)
    starts = window_starts(num_frames, clip_len, stride, interval)
    covered = {start + interval * step for start in starts for step in range(clip_len)}
    assert set(range(num_frames)) <= covered
    assert len(set(starts)) == len(starts)
    full = [start for start in starts if start + interval * (clip_len - 1) >= num_frames]
    assert not full or num_frames < interval * clip_len  # only a video shorter than a window is padded


def test_a_csv_value_keeps_its_fraction(damaged_root):
    csv = damaged_root / KEYS[0] / f"{KEYS[0]}_Valence_V_Aligned.csv"
    csv.write_text("frame,valence\n" + "".join(f"{frame},0.37\n" for frame in range(COUNT)))
    sample = SEWADataset(damaged_root, pipeline=_pipeline())[0]["data_samples"]
    assert set(sample.gt_affect[:, 0].tolist()) == {float(np.float32(0.37))}


def test_label_range_is_scaled_linearly_and_recorded(sewa_root):
    dataset = SEWADataset(sewa_root, label_range=(-2, 3))
    assert dataset.facts["label_range"] == (-2.0, 3.0)
    assert dataset.metainfo["dims"] == ("valence", "arousal")
    expected = [2 * (valence_of(n) + 2) / 5 - 1 for n in range(COUNT)]
    np.testing.assert_allclose(dataset[0]["affect"][:, 0], expected, atol=1e-6)


def test_a_record_keeps_the_contract(sewa_root):
    record = SEWADataset(sewa_root)[1]
    assert (record["video"], record["num_frames"], record["fps"], record["subject"]) == (KEYS[1], COUNT, 25.0, "S002")
    assert (record["affect"].shape, record["affect"].dtype) == ((COUNT, 2), np.float32)
    assert (record["valid"].dtype, record["face_found"].dtype) == (np.bool_, np.bool_)
    np.testing.assert_allclose(record["boxes"], np.tile(SQUARE, (COUNT, 1)), atol=1e-3)
    assert set(record) == {
        "video", "filename", "num_frames", "fps", "subject", "affect", "valid", "boxes", "face_found", "sample_idx"
    }  # fmt: skip


def test_records_are_fresh_copies(sewa_root):
    dataset = SEWADataset(sewa_root)
    dataset[0]["affect"][:] = 9
    assert dataset[0]["affect"].max() < 1


def test_subsets_and_indices_work_as_in_mmengine(sewa_root):
    windows = {"clip_len": 16, "stride": 16}
    dataset = SEWADataset(sewa_root, pipeline=_pipeline(16, "window"), windows=windows, test_mode=True, indices=2)
    assert [dataset.get_data_info(i)["start"] for i in range(len(dataset))] == [0, 16]
    _assert_pairs_are_exact(dataset.get_subset([1])[0])


def test_it_builds_from_a_config_with_and_without_scope(sewa_root):
    steps = [{"type": "SampleClip", "clip_len": 4}, {"type": "hocp_mm.LoadFaceClip", "size": 48, "margin": 1.0}]
    config = {
        "type": "hocp_mm.SEWADataset",
        "data_root": str(sewa_root),
        "pipeline": [*steps, {"type": "PackAffectInputs"}],
    }
    _assert_pairs_are_exact(DATASETS.build(config)[0])


def test_frames_without_landmarks_are_interpolated_and_marked(damaged_root):
    points = {frame: square_landmarks() for frame in range(COUNT) if frame not in (3, 39)}
    points[5] = None
    write_landmarks_zip(damaged_root / KEYS[0] / f"{KEYS[0]}_Landmarks.zip", COUNT, points)
    dataset = SEWADataset(damaged_root, pipeline=[SampleClip(COUNT), LoadFaceClip(size=48, margin=1.0)])
    record = dataset[0]
    assert np.flatnonzero(~record["face_found"]).tolist() == [3, 5, 39]
    assert [read_number(img) for img in record["imgs"]] == list(range(COUNT))


def test_given_boxes_serve_instead_of_landmarks_and_whole_frames_need_none(damaged_root):
    for key in KEYS:
        (damaged_root / key / f"{key}_Landmarks.zip").unlink()
    per_frame = [None if frame == 2 else list(SQUARE) for frame in range(COUNT)]
    (damaged_root / "boxes.json").write_text(json.dumps({KEYS[0]: list(SQUARE), KEYS[1]: per_frame}))
    for faces in ("given", "landmarks"):
        dataset = SEWADataset(damaged_root, faces=faces, boxes_file="boxes.json", pipeline=_pipeline())
        for index in (0, 1):
            _assert_pairs_are_exact(dataset[index])
    whole = SEWADataset(damaged_root, faces="frame", pipeline=[SampleClip(4), LoadFaceClip(size=64)])[1]
    assert whole["boxes"] is None
    assert whole["face_found"].all()
    inner = whole["imgs"][:, 8:56, 8:56]  # 320x240 made a square of 320: the numbers span the central 240
    assert [read_number(img) - COUNT for img in inner] == whole["frame_inds"].tolist()


def test_a_small_difference_in_length_is_cut_and_named_only_if_allowed(damaged_root, caplog):
    csv = damaged_root / KEYS[0] / f"{KEYS[0]}_Arousal_V_Aligned.csv"
    csv.write_text("".join(csv.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(DataError, match=r"within length_tolerance=0, got 40 in .*Valence.* and 38 in .*Arousal"):
        SEWADataset(damaged_root)
    dataset = SEWADataset(damaged_root, length_tolerance=2, pipeline=_pipeline(38))
    assert [dataset.get_data_info(i)["num_frames"] for i in (0, 1)] == [38, 40]
    _assert_pairs_are_exact(dataset[0])


# Bad input: what is done to the set, and what the error must say.


def _truncate_video(root):
    """Cut between two frames, where nothing in the stream itself is broken."""
    video = root / KEYS[0] / f"{KEYS[0]}.avi"
    write_numbered_avi(video, range(30))


def _cut_video(root):
    video = root / KEYS[0] / f"{KEYS[0]}.avi"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])


def _csv(root, dimension="Valence"):
    return root / KEYS[0] / f"{KEYS[0]}_{dimension}_V_Aligned.csv"


def _edit_csv(old, new):
    def damage(root):
        text = _csv(root).read_text()
        assert old in text
        _csv(root).write_text(text.replace(old, new))

    return damage


def _rename_to_audio_labels(root):
    _csv(root).rename(root / KEYS[0] / f"{KEYS[0]}_Valence_A_Aligned.csv")


def _faces_outside(root):
    points = {frame: square_landmarks((400, 10, 500, 90)) for frame in range(COUNT)}
    write_landmarks_zip(root / KEYS[0] / f"{KEYS[0]}_Landmarks.zip", COUNT, points)


def _leak(root):
    partner = KEYS[0].replace("P001", "P002")  # the other person of the same conversation
    write_split_files(root / "splits", {"val": [partner]}, seed=0)


K0 = re.escape(KEYS[0])
DAMAGES = {
    "no folder": (lambda root: shutil.rmtree(root / KEYS[0]), rf"{K0}: the split names this video, but there is no"),
    "no video": (lambda root: (root / KEYS[0] / f"{KEYS[0]}.avi").unlink(), rf"{K0}\.avi: no such video file"),
    "empty video": (lambda root: (root / KEYS[0] / f"{KEYS[0]}.avi").write_bytes(b""), rf"{K0}\.avi: not a readable"),
    "short video": (_truncate_video, rf"{K0}\.avi: 30 frames must match the labels .* got 40 in .*Valence.*\.csv and"),
    "cut video": (
        _cut_video,
        rf"{K0}\.avi: the file must hold whole frames, but it ends .* \(its header promises 40\)",
    ),
    "no csv": (lambda root: _csv(root).unlink(), rf"{K0}_Valence_V_Aligned\.csv: no such label file .*no valence"),
    "other csv": (
        _rename_to_audio_labels,
        r"no such label file \(the folder has .*_Valence_A_Aligned\.csv: set `labels`",
    ),
    "word": (_edit_csv("\n7,-0.493", "\n7,bad"), r"Valence_V_Aligned\.csv: cells must be finite .* line 9, .* 'bad'"),
    "NaN": (_edit_csv("\n7,-0.493", "\n7,nan"), "line 9, column 2 is 'nan'"),
    "out of range": (_edit_csv("\n7,-0.493", "\n7,-1.2"), r"must lie in label_range \(-1, 1\), but line 9 has -1\.2"),
    "short csv": (_edit_csv("\n39,-0.461", ""), r"40 frames must match the labels .* got 39 in .*Valence.* and 40 in"),
    "no landmarks": (
        lambda root: (root / KEYS[0] / f"{KEYS[0]}_Landmarks.zip").unlink(),
        r"Landmarks\.zip: no such landmarks file; set boxes_file for this video, or faces='frame'",
    ),
    "never a face": (
        lambda root: write_landmarks_zip(root / KEYS[0] / f"{KEYS[0]}_Landmarks.zip", COUNT, {}),
        rf"{K0}\.avi: a face must be found in at least one frame, got none \(.*_Landmarks\.zip\)",
    ),
    "faces outside": (_faces_outside, r"faces must lie in the 320x240 frame, but .* frame 0 has the box \[400"),
    "leak": (_leak, "no group may be in two parts, but group 'S001' is in train.txt and val.txt"),
    "empty split": (lambda root: (root / "splits/train.txt").write_text("# 0\n"), r"train\.txt: a split must name at"),
    "foreign key": (lambda root: (root / "splits/train.txt").write_text("clip1\n"), "a key must read like .* 'clip1'"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_each_fault_is_one_clear_error_before_training(damaged_root, damage, message):
    damage(damaged_root)
    with pytest.raises(DataError, match=message) as caught:
        DATASETS.build({"type": "hocp_mm.SEWADataset", "data_root": str(damaged_root)})
    assert "2 faults" not in str(caught.value)


OF_ONE_VIDEO = {name: damage for name, damage in DAMAGES.items() if name not in ("leak", "empty split", "foreign key")}


@pytest.mark.parametrize(("damage", "message"), OF_ONE_VIDEO.values(), ids=OF_ONE_VIDEO)
def test_with_skip_a_faulty_video_is_left_out_counted_and_named(damaged_root, damage, message, monkeypatch):
    told = []
    monkeypatch.setattr("hocp_mm.datasets.records.dataset.print_log", lambda text, **options: told.append(text))
    damage(damaged_root)
    dataset = SEWADataset(damaged_root, pipeline=_pipeline(), on_fault="skip")
    assert [dataset.get_data_info(i)["video"] for i in range(len(dataset))] == [KEYS[1]]
    _assert_pairs_are_exact(dataset[0])
    assert len(dataset.faults) == 1
    assert re.search(message, dataset.faults[0])
    assert re.search(rf"on_fault='skip', 1 fault skipped: 1 [a-z ]+, 1 left out \({KEYS[0]}\):\n.*{message}", told[0])


def test_with_skip_nothing_left_is_still_an_error(damaged_root):
    for key in KEYS[:2]:
        (damaged_root / key / f"{key}.avi").write_bytes(b"")
    with pytest.raises(DataError, match=r"got 3 faults:\n(.*\n)+.*no video can be used"):
        SEWADataset(damaged_root, on_fault="skip")


def test_a_clip_that_breaks_in_training_is_replaced_and_named_or_ends_the_run(damaged_root, monkeypatch):
    told = []
    monkeypatch.setattr("hocp_mm.datasets.records.dataset.print_log", lambda text, **options: told.append(text))
    train = SEWADataset(damaged_root, pipeline=_pipeline(), on_fault="skip")
    test = SEWADataset(
        damaged_root,
        pipeline=_pipeline(mode="window"),
        on_fault="skip",
        test_mode=True,
        windows={"clip_len": 8, "stride": 8},
    )
    strict = SEWADataset(damaged_root, pipeline=_pipeline())
    (damaged_root / KEYS[0] / f"{KEYS[0]}.avi").unlink()
    assert train.prepare_data(0) is None
    assert train[0]["data_samples"].video == KEYS[1]
    assert [text.startswith("SEWADataset: clip 1 replaced by another: ") for text in told] == [True]
    for dataset in (test, strict):
        with pytest.raises(MissingDataError, match=KEYS[0]):
            dataset[0]


def test_all_faults_are_counted_and_ten_are_shown(sewa_root, tmp_path):
    keys = [f"SAH_C1_S{n:03d}_P001_VC1_000000_000039" for n in range(14)]
    root = tmp_path / "SEWAv02"
    (root / "splits").mkdir(parents=True)
    (root / "splits/train.txt").write_text("\n".join(keys))
    with pytest.raises(
        DataError, match=r"^SEWADataset\(train\): the data must be complete, got 14 faults:\n"
    ) as caught:
        SEWADataset(root)
    lines = str(caught.value).splitlines()
    assert [key in line for key, line in zip(keys[:10], lines[1:11], strict=True)] == [True] * 10
    assert lines[11:] == ["  … and 4 more"]


def test_several_faults_of_one_video_are_all_named(damaged_root):
    _csv(damaged_root).unlink()
    _csv(damaged_root, "Arousal").write_text("frame,arousal\n0,x\n")
    with pytest.raises(DataError, match=r"got 2 faults:\n.*Valence.*\n.*Arousal.* is 'x'"):
        SEWADataset(damaged_root)


def test_no_data_root_says_what_is_missing_and_where_to_get_it(tmp_path):
    with pytest.raises(MissingDataError, match=r"data_root '.*none' does not exist \(config key `data_root`") as caught:
        DATASETS.build({"type": "hocp_mm.SEWADataset", "data_root": str(tmp_path / "none")})
    for hint in ("https://db.sewaproject.eu", "make demo", "python tools/prepare/split_sewa.py"):
        assert hint in str(caught.value)


def test_no_split_file_says_how_to_write_it(damaged_root):
    with pytest.raises(
        MissingDataError, match=r"val\.txt does not exist; `python tools/prepare/split_sewa.py .*SEWAv02`"
    ):
        SEWADataset(damaged_root, "val")


def test_a_split_may_be_any_file(damaged_root, tmp_path):
    (tmp_path / "mine.txt").write_text(KEYS[1])
    assert SEWADataset(damaged_root, str(tmp_path / "mine.txt"))[0]["video"] == KEYS[1]
    (damaged_root / "ours.txt").write_text(KEYS[0])
    assert SEWADataset(damaged_root, "ours.txt")[0]["video"] == KEYS[0]


BAD_BOXES = {
    "no json": ("{", "not readable as JSON"),
    "a list": ("[]", "must map keys to boxes, got a list"),
    "no key": ("{}", "must have a box .*, got None"),
    "no area": (json.dumps({KEYS[0]: [10, 10, 10, 20]}), r"got \[10, 10, 10, 20\] at frame 0"),
    "three numbers": (json.dumps({KEYS[0]: [1, 2, 3]}), r"got \[1, 2, 3\] at frame 0"),
    "too few": (json.dumps({KEYS[0]: [[1, 2, 3, 4]] * 39}), "got 39 for 40 frames"),
    "outside": (json.dumps({KEYS[0]: [500, 1, 600, 90]}), "faces must lie in the 320x240 frame"),
}


@pytest.mark.parametrize(("content", "message"), BAD_BOXES.values(), ids=BAD_BOXES)
def test_bad_boxes_are_named(damaged_root, content, message):
    (damaged_root / "boxes.json").write_text(content)
    (damaged_root / "one.txt").write_text(KEYS[0])
    with pytest.raises(DataError, match=rf"boxes\.json: .*{message}"):
        SEWADataset(damaged_root, "one.txt", faces="given", boxes_file="boxes.json")


def test_a_missing_boxes_file_is_named(sewa_root):
    with pytest.raises(MissingDataError, match=r"b\.json: no such boxes file"):
        SEWADataset(sewa_root, faces="given", boxes_file="b.json")


BAD_OPTIONS = {
    "labels": ({"labels": "W"}, "labels must be one of A, V, AV, got 'W'"),
    "faces": ({"faces": "yes"}, "faces must be one of landmarks, given, frame, got 'yes'"),
    "given": ({"faces": "given"}, "faces='given' needs boxes_file, got None"),
    "tolerance": ({"length_tolerance": -1}, "length_tolerance must be 0 or more, got -1"),
    "range": ({"label_range": (1, -1)}, r"label_range must be \(lowest, highest\), got \(1, -1\)"),
    "clips": ({"clips_per_video": 0}, "clips_per_video must be 1 or more, got 0"),
    "windows missing": ({"test_mode": True}, r"test_mode needs windows=dict\(clip_len=…, stride=…\), got None"),
    "windows key": (
        {"windows": {"length": 3}},
        r"windows takes clip_len, stride, frame_interval and fps, got \['length'\]",
    ),
    "holes": ({"windows": {"clip_len": 4, "stride": 5}}, "stride must not exceed clip_len, got 5 > 4"),
    "mode": (
        {"test_mode": True, "windows": {"clip_len": 8, "stride": 4}, "pipeline": _pipeline(8)},
        "test_mode=True contradicts SampleClip",
    ),
    "length": (
        {"test_mode": True, "windows": {"clip_len": 8, "stride": 4}, "pipeline": _pipeline(9, "window")},
        r"windows=\{'clip_len': 8, 'stride': 4\} must agree with SampleClip\(clip_len=9",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_are_checked_before_any_file(options, message):
    with pytest.raises(ValueError, match=f"SEWADataset: {message}|window_starts: {message}"):
        SEWADataset("nowhere", **options)


def test_the_seed_of_python_random_decides_the_clips(sewa_root):
    dataset = SEWADataset(sewa_root, pipeline=[SampleClip(4)], clips_per_video=5)
    draws = []
    for seed in (1, 1, 2):
        random.seed(seed)
        draws.append([dataset[i]["frame_inds"][0] for i in range(10)])
    assert draws[0] == draws[1] != draws[2]


def test_with_skip_a_set_whose_clips_are_all_damaged_ends_with_an_error_that_names_one(sewa_root):
    """Mmengine would try a thousand clips and raise an error without a file."""
    tries = []

    def fail(record):
        tries.append(record["filename"])
        raise DataError(f"{record['filename']}: frame 3 is damaged in the file.")

    dataset = SEWADataset(sewa_root, pipeline=[fail], on_fault="skip")
    with pytest.raises(DataError, match=r"\.avi: frame 3 is damaged in the file\."):
        dataset[0]
    assert len(tries) == 100


def test_segments_of_one_recording_may_be_equal_those_of_two_may_not(tmp_path, sewa_root):
    root = Path(shutil.copytree(sewa_root, tmp_path / "set"))
    for key in (KEYS[0].replace("SAH", "SVH"), KEYS[0].replace("P001", "P002")):
        shutil.copytree(root / KEYS[0], root / key)
        for file in (root / key).iterdir():
            file.rename(file.with_name(file.name.replace(KEYS[0], key)))
        (root / "part.txt").write_text(f"{KEYS[0]}\n{key}\n")
        if "SVH" in key:
            assert len(SEWADataset(root, "part.txt")) == 2
            continue
        with pytest.raises(DataError, match=r"P001.*\.avi: two recordings must not have the same content, but .*P002"):
            SEWADataset(root, "part.txt")
