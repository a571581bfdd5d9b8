"""The check of all data of a config: right counts on whole sets, every fault with its file and kind on damaged ones."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.data_check import TimeLimits, check_data
from hocp_mm.datasets.splits import write_split_files
from hocp_mm.errors import HOCPError
from tests.material.afew_va_files import write_afew_va
from tests.material.affectnet_files import row, write_2017, write_2021
from tests.material.affwild2_files import write_affwild2
from tests.material.avec_files import write_avec
from tests.material.data_configs import dataset_config, loaders
from tests.material.odd_videos import write_video
from tests.material.sewa_files import KEYS, arousal_of, valence_of, write_segment, write_sewa

PEOPLE = ("SAH_C1_S001_P001_VC1_000100_000139", "SAL_C1_S001_P002_VC1_000000_000039", KEYS[1])


@pytest.fixture(scope="module")
def sewa(tmp_path_factory) -> Path:
    """Two segments of 12 frames; read only."""
    return write_sewa(tmp_path_factory.mktemp("sewa") / "SEWA", num_frames=12)


@pytest.fixture
def damaged(sewa, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sewa, tmp_path / "SEWA"))


def check(*, deep: bool = True, **datasets):
    return check_data(loaders(**datasets), workers=0, deep=deep)


def kinds_and_files(report) -> list[tuple[str, str]]:
    return [(fault.kind, Path(fault.file).name) for fault in report.faults]


def test_a_whole_set_of_videos_is_counted(sewa):
    seen: list[tuple[int, int]] = []
    cfg = loaders(train=dataset_config("SEWADataset", sewa, clips_per_video=5))
    report = check_data(cfg, workers=0, progress=lambda *state: seen.append(state))
    (part,) = report.parts
    assert report.ok
    assert (part.name, part.dataset, part.records, part.clips) == ("train", "SEWADataset", 2, 10)
    assert (part.frames, part.valid_frames, part.subjects, part.face_found_share) == (24, 24, 2, 1.0)
    assert part.valence_range == pytest.approx((valence_of(0), valence_of(23)))
    assert part.arousal_range == pytest.approx((arousal_of(23), arousal_of(0)))
    assert (part.label_range, part.decoders) == ((-1.0, 1.0), {"video, in order": 2})
    assert seen == [(1, 2), (2, 2)]
    assert "on_fault" not in cfg.train_dataloader.dataset  # the config is left as it was


def test_a_video_whose_frames_come_unevenly_is_said_to_have_its_mean_rate(damaged):
    key = KEYS[0]
    times = [0, 40, 80, 120, 160, 200, 240, 280, 320, 1000, 1040, 1100]
    video = damaged / key / f"{key}.avi"
    write_video(video.with_suffix(".mkv"), "mpeg4", 12, milliseconds=times).replace(video)
    (part,) = check(train=dataset_config("SEWADataset", damaged)).parts
    assert not part.faults
    assert part.rate_range == (10, 25)
    assert part.variable == 1


def test_images_are_records_of_one_frame(tmp_path):
    lines = [row(f"{n % 2}/{n}.jpg", n, 0.1 * n, -0.2) for n in range(5)]
    root = write_2017(tmp_path, [*lines, row("0/9.jpg", 9, 0.5, 0.5)])  # class 9 is none of the eight
    (part,) = check(train=dataset_config("AffectNetDataset", root, clip_len=1, clips_per_video=3)).parts
    assert (part.records, part.clips, part.frames, part.valid_frames) == (5, 15, 5, 5)
    assert part.subjects == 0
    assert part.valence_range == pytest.approx((0.0, 0.4))
    assert part.decoders == {"images": 5}
    assert part.faults == ()


def test_the_other_release_and_rows_that_share_an_image(tmp_path):
    root = write_2021(tmp_path / "2021", {"0": (1, 0.5, 0.25), "1": (2, -0.5, 0)})
    (part,) = check(train=dataset_config("AffectNetDataset", root, clip_len=1, release="2021")).parts
    assert (part.records, part.frames, part.faults) == (2, 2, ())
    root = write_2017(tmp_path / "2017", [row("0/a.jpg", 1), row("0/a.jpg", 2)])
    (part,) = check(train=dataset_config("AffectNetDataset", root, clip_len=1)).parts
    assert (part.records, part.faults) == (2, ())


def test_frames_that_do_not_count_are_told_from_those_that_do(tmp_path):
    wild = dataset_config(
        "AffWild2Dataset", write_affwild2(tmp_path / "w"), images=["cropped_aligned", "cropped_aligned_new_50_vids"]
    )
    report = check(train=wild, val={**wild, "split": "val"})
    train, val = report.parts
    assert report.ok
    assert (train.records, train.frames, train.valid_frames, train.subjects) == (3, 44, 40, 2)
    assert train.face_found_share == pytest.approx(42 / 44)
    assert (val.records, val.frames, val.valid_frames) == (1, 10, 10)
    (part,) = check(train=dataset_config("AVECDataset", write_avec(tmp_path / "a", frames=60))).parts
    assert (part.records, part.frames, part.valid_frames) == (2, 120, 102)  # labels end after 2 s = 51 frames
    (note,) = part.notes  # what mmengine has to say about strings in metainfo is none
    assert "18 frames lie before the first or after the last label" in note


def test_folds_keep_their_people_apart(tmp_path):
    root = write_afew_va(tmp_path)
    parts = {split: dataset_config("AFEWVADataset", root, split=split, fold=0) for split in ("train", "val", "test")}
    report = check(**parts)
    assert report.ok
    assert sum(part.records for part in report.parts) == 12
    assert sum(part.frames for part in report.parts) == 72
    assert {way for part in report.parts for way in part.decoders} == {"images"}
    assert report.parts[0].label_range == (-10, 10)


def test_all_faults_are_collected_whatever_the_config_says(damaged):
    first, second = (damaged / key for key in KEYS)
    csv = first / f"{KEYS[0]}_Valence_V_Aligned.csv"
    csv.write_text(csv.read_text().replace(f",{valence_of(3)}", ",7.5"))
    (first / f"{KEYS[0]}_Arousal_V_Aligned.csv").unlink()
    report = check(train=dataset_config("SEWADataset", damaged, on_fault="error"))
    assert not report.ok
    assert kinds_and_files(report) == [
        ("labels", csv.name),
        ("labels missing", f"{KEYS[0]}_Arousal_V_Aligned.csv"),
    ]
    assert report.parts[0].records == 1
    # The last record goes, too: the set as a whole fails, and each fault is still told by itself.
    (second / f"{KEYS[1]}.avi").write_bytes(b"no video")
    report = check(train=dataset_config("SEWADataset", damaged))
    assert [fault.kind for fault in report.faults] == ["set", "labels", "labels missing", "video"]
    assert "no record can be used" in report.faults[0]
    assert report.parts[0].records == 0


def test_only_a_deep_check_sees_what_only_decoding_shows(tmp_path):
    root = write_2017(tmp_path, [row(f"0/{n}.jpg") for n in range(4)])
    image = root / "Manually_Annotated/Manually_Annotated_Images/0/2.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    train = dataset_config("AffectNetDataset", root, clip_len=1)
    fast = check(train=train, deep=False)
    assert fast.ok
    assert fast.parts[0].decoders == {}
    assert kinds_and_files(check(train=train)) == [("image", "2.jpg")]


def test_a_set_that_is_not_there_is_a_fault_of_the_set(sewa, tmp_path):
    train, val = dataset_config("SEWADataset", sewa), dataset_config("SEWADataset", tmp_path / "none", split="val")
    report = check(train=train, val=val)
    assert [fault.kind for fault in report.faults] == ["set"]
    assert "does not exist" in report.faults[0]
    assert [part.records for part in report.parts] == [2, 0]
    assert report.parts[1].valence_range is None


def test_one_person_in_two_parts_is_a_leak_once(tmp_path):
    root = tmp_path / "SEWA"
    for index, key in enumerate(PEOPLE):
        write_segment(root, key, num_frames=4, first_number=4 * index)
    # Names that the data set does not take for siblings, so that only the check can see it.
    write_split_files(root / "one", {"train": [PEOPLE[0]]}, seed=0)
    write_split_files(root / "other", {"val": list(PEOPLE[1:])}, seed=0)
    train = dataset_config("SEWADataset", root, split="one/train.txt")
    val = dataset_config("SEWADataset", root, split="other/val.txt")
    (fault,) = check(train=train, val=val, deep=False).faults
    assert fault.kind == "leak"
    assert Path(fault.file).name == f"{PEOPLE[1]}.avi"
    assert f"train ({PEOPLE[0]})" in fault
    assert f"val ({PEOPLE[1]})" in fault
    assert check(train=train, test={**val, "split": "one/train.txt"}, deep=False).kinds == {"leak": 1}


def test_images_of_nobody_leak_by_their_files(tmp_path):
    root = write_2017(tmp_path, [row(f"0/{n}.jpg") for n in range(3)])
    write_2017(tmp_path, [row("0/2.jpg"), row("0/7.jpg")], part="validation")
    train = dataset_config("AffectNetDataset", root, clip_len=1)
    val = dataset_config("AffectNetDataset", root, clip_len=1, split="val", test_mode=True)
    report = check(train=train, val=val)
    assert [(fault.kind, Path(fault.file).name) for fault in report.faults] == [("leak", "2.jpg")]


def test_a_test_loader_may_read_the_validation_part_again(tmp_path):
    root = write_2017(tmp_path, [row("0/1.jpg"), row("0/2.jpg")], part="validation")
    image = root / "Manually_Annotated/Manually_Annotated_Images/0/2.jpg"
    image.write_bytes(b"no image")
    val = dataset_config("AffectNetDataset", root, clip_len=1, split="val", test_mode=True)
    report = check(val=val, test=val)
    assert [part.same_as for part in report.parts] == ["", "val"]
    assert [part.records for part in report.parts] == [1, 1]
    assert len(report.faults) == 1
    # Another crop is another data set of the same records: no leak either.
    other = {**val, "pipeline": [val["pipeline"][0], {"type": "hocp_mm.LoadFaceClip", "size": 40}, val["pipeline"][2]]}
    assert check(val=val, test=other).kinds == {"image": 1}


def test_one_file_under_two_keys_is_a_fault(damaged):
    first, second = (damaged / key / f"{key}.avi" for key in KEYS)
    second.unlink()
    os.link(first, second)
    whole, *faults = check(train=dataset_config("SEWADataset", damaged), deep=False).faults
    assert whole.kind == "set"  # of two videos both are left out
    assert [(fault.kind, fault.file) for fault in faults] == [("twins", str(first)), ("twins", str(second))]


def test_one_file_under_two_keys_of_one_recording_is_a_fault(damaged):
    key = KEYS[0].replace("SAH", "SVH")
    shutil.copytree(damaged / KEYS[0], damaged / key)
    for file in (damaged / key).iterdir():
        file.rename(file.with_name(file.name.replace(KEYS[0], key)))
    first, second = (damaged / name / f"{name}.avi" for name in (KEYS[0], key))
    second.unlink()
    os.link(first, second)
    (damaged / "part.txt").write_text(f"{KEYS[0]}\n{key}\n")
    (fault,) = check(train=dataset_config("SEWADataset", damaged, split="part.txt"), deep=False).faults
    assert (fault.kind, fault.file) == ("same file", str(second))
    assert KEYS[0] in fault


def test_wrapped_and_joined_data_sets_are_parts_of_their_own(sewa, tmp_path):
    other = write_affwild2(tmp_path)
    joined = {
        "type": "mmengine.ConcatDataset",
        "datasets": [
            {"type": "mmengine.RepeatDataset", "times": 2, "dataset": dataset_config("SEWADataset", sewa)},
            dataset_config("AffWild2Dataset", other, split="val", images="cropped_aligned_new_50_vids"),
        ],
    }
    report = check(train=joined, deep=False)
    assert [(part.name, part.dataset, part.records) for part in report.parts] == [
        ("train 1", "SEWADataset", 2),
        ("train 2", "AffWild2Dataset", 1),
    ]


def test_a_pipeline_that_fails_is_a_fault(sewa):
    train = dataset_config("SEWADataset", sewa)
    train["pipeline"].insert(2, {"type": "hocp_mm.RandomResizedClipCrop", "size": 16, "scale": (0.5, 1.0)})
    assert check(train=train).ok
    train["pipeline"].pop(1)  # nothing loads the pictures any more
    report = check(train=train)
    assert report.kinds == {"pipeline": 1}
    assert "KeyError: 'imgs'" in report.faults[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": "X"}, "train_dataloader: SEWADataset: labels must be one of A, V, AV, got 'X'"),
        ({"label": "V"}, "train_dataloader: TypeError: .*unexpected keyword argument 'label'"),
        ({"type": "mmengine.BaseDataset"}, "must hold data sets of hocp_mm"),
        ({"type": "hocp_mm.NoSuchDataset"}, "must hold data sets of hocp_mm"),
    ],
)
def test_a_config_that_cannot_be_used_is_an_error(sewa, change, text):
    with pytest.raises(HOCPError, match=text):
        check(train={**dataset_config("SEWADataset", sewa), **change})


def test_a_config_without_the_loader_is_an_error(sewa):
    with pytest.raises(HOCPError, match="must have one of test_dataloader"):
        check_data(loaders(train=dataset_config("SEWADataset", sewa)), splits=["test"], workers=0)


DECODERS_THAT_DIE = """
import os, time
from pathlib import Path
import av

def spoil(function):
    def read(path, *args, **kwargs):
        if "_VC9_" in str(path) or "crash" in str(path):
            os.abort()
        if "endless" in str(path):
            time.sleep(600)
        return function(path, *args, **kwargs)
    return read

av.open = spoil(av.open)
Path.read_bytes = spoil(Path.read_bytes)
"""


@pytest.mark.slow  # each lost process is replaced by one that imports everything again
def test_a_file_that_kills_or_stops_its_decoder_costs_only_itself(tmp_path, monkeypatch):
    """Stand-ins for a segmentation fault and for an endless file, in every process that the check starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DECODERS_THAT_DIE)
    paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    images = write_2017(tmp_path / "images", [row(f"0/{name}.jpg") for name in ("a", "crash", "b", "endless", "c")])
    deadly = "SAH_C1_S001_P001_VC9_000000_000003"
    videos = write_sewa(tmp_path / "SEWA", [deadly, KEYS[1]], num_frames=4)
    cfg = loaders(
        train=dataset_config("AffectNetDataset", images, clip_len=1),
        val=dataset_config("SEWADataset", videos, split="train"),
    )
    report = check_data(cfg, workers=2, limits=TimeLimits(record=1.5, frame=0))
    train, val = report.parts
    assert train.decoders == {"images": 3}
    assert [(fault.kind, Path(fault.file).name) for fault in train.faults] == [
        ("crash", "crash.jpg"),
        ("crash", "endless.jpg"),
    ]
    assert "crashed (SIGABRT)" in train.faults[0]
    assert "did not end within 1.5 s" in train.faults[1]
    # Its decoder died while the data set was built: the set is lost, and the file is found by opening all.
    assert [fault.kind for fault in val.faults] == ["set", "crash"]
    assert Path(val.faults[1].file).name == f"{deadly}.avi"


def test_processes_find_what_this_process_finds(damaged):
    (damaged / KEYS[1] / f"{KEYS[1]}.avi").write_bytes(b"no video")
    cfg = loaders(train=dataset_config("SEWADataset", damaged))
    assert check_data(cfg, workers=1) == check_data(cfg, workers=0)
    assert np.isfinite(check_data(cfg, workers=0).parts[0].valence_range).all()
