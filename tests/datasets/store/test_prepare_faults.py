"""Damaged data in a preparation: one line in the report each, and the rest is prepared."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets import AffectNetDataset, AffWild2Dataset, SEWADataset
from hocp_mm.datasets.splits import read_split_file
from hocp_mm.datasets.store import CropSettings, read_index
from hocp_mm.datasets.store.prepare import prepare_store
from hocp_mm.datasets.store.report import LEFT_OUT, left_out_keys, read_report
from hocp_mm.errors import DataError
from tests.material.affectnet_files import row, write_2017
from tests.material.affwild2_files import write_affwild2
from tests.material.raw_sets import KEYS, damage_frame, prepare_sewa, tree, write_talks


@pytest.fixture
def talks(tmp_path) -> Path:
    return write_talks(tmp_path / "SEWAv02")


def _video(root: Path, key: str) -> Path:
    return root / key / f"{key}.avi"


def test_a_video_damaged_in_the_middle_is_left_out_and_named(talks, tmp_path):
    damage_frame(_video(talks, KEYS[1]), 6)
    out = tmp_path / "crops"
    summary = prepare_sewa(talks, out)
    assert read_index(out / "index.npz").keys == [KEYS[0], KEYS[2], KEYS[3]]
    assert (summary.records, summary.skipped) == (3, {LEFT_OUT: 1, "video": 1})
    fault, left_out = read_report(out)
    assert (fault.kind, fault.file) == ("video", str(_video(talks, KEYS[1])))
    assert "frame 5 cannot be decoded" in fault.text
    assert (left_out.kind, left_out.file) == (LEFT_OUT, KEYS[1])
    assert KEYS[1] in read_split_file(out / "splits/train.txt")
    assert left_out_keys(read_report(out)) == {KEYS[1]}
    assert not list(out.glob(f"packs/{KEYS[1]}*"))


def test_a_repaired_video_completes_the_store(talks, tmp_path):
    sound = _video(talks, KEYS[1]).read_bytes()
    damage_frame(_video(talks, KEYS[1]), 6)
    prepare_sewa(talks, tmp_path / "crops")
    _video(talks, KEYS[1]).write_bytes(sound)
    assert prepare_sewa(talks, tmp_path / "crops").skipped == {}
    prepare_sewa(talks, tmp_path / "fresh")
    assert tree(tmp_path / "crops") == tree(tmp_path / "fresh")


def test_what_the_data_set_itself_skips_is_in_the_report(talks, tmp_path):
    _video(talks, KEYS[0]).write_bytes(b"")
    (talks / KEYS[1] / f"{KEYS[1]}_Arousal_V_Aligned.csv").unlink()
    shutil.rmtree(talks / KEYS[2])
    write = talks / "splits/train.txt"
    write.write_text("\n".join([*KEYS[:3], "SAH_C1_S009_P018_VC1_000100_000111"]))
    shutil.copytree(talks / KEYS[3], talks / "SAH_C1_S009_P018_VC1_000100_000111")
    for file in (talks / "SAH_C1_S009_P018_VC1_000100_000111").iterdir():
        file.rename(file.with_name(file.name.replace(KEYS[3], "SAH_C1_S009_P018_VC1_000100_000111")))
    summary = prepare_sewa(talks, tmp_path / "crops")
    assert summary.records == 2
    assert summary.skipped == {LEFT_OUT: 3, "labels missing": 1, "video": 1, "video missing": 1}
    assert left_out_keys(read_report(tmp_path / "crops")) == set(KEYS[:3])


def test_nothing_usable_is_an_error_and_leaves_no_store(talks, tmp_path):
    prepare_sewa(talks, tmp_path / "crops")  # nor the index of an earlier one
    for key in KEYS:
        damage_frame(_video(talks, key), 6)
    with pytest.raises(DataError, match=r"at least one record must be usable, got none of 4; .*report\.csv says why"):
        prepare_sewa(talks, tmp_path / "crops")
    assert not (tmp_path / "crops/index.npz").exists()
    assert len(read_report(tmp_path / "crops")) == 8


def test_two_parts_with_one_subject_are_refused_before_the_work(talks, tmp_path):
    folder = tmp_path / "leaky"
    folder.mkdir()
    (folder / "train.txt").write_text(KEYS[0] + "\n")
    (folder / "val.txt").write_text(KEYS[0].replace("SAH", "SAL") + "\n")
    shutil.copytree(talks / KEYS[0], talks / KEYS[0].replace("SAH", "SAL"))
    for file in (talks / KEYS[0].replace("SAH", "SAL")).iterdir():
        file.rename(file.with_name(file.name.replace("SAH", "SAL")))
    (talks / "splits/val.txt").write_text(KEYS[0].replace("SAH", "SAL") + "\n")
    (talks / "splits/train.txt").rename(talks / "train_keys.txt")  # so that the raw set cannot see the leak
    parts = {
        "val": SEWADataset(str(talks), "val", lazy_init=True),
        "train": SEWADataset(str(talks), "train_keys.txt", lazy_init=True),
    }
    with pytest.raises(DataError, match=r"leaky: split: no video may|leaky: split: no group may"):
        prepare_store(tmp_path / "crops", parts, CropSettings(), split_folders={"splits": folder}, workers=1)
    assert not list((tmp_path / "crops/packs").iterdir())


def _affectnet(root: Path) -> dict[str, AffectNetDataset]:
    return {
        part: AffectNetDataset(
            str(root), part, faces="box", on_fault="skip", verify_images=False, index_cache=False, lazy_init=True
        )
        for part in ("train", "val")
    }


def test_a_damaged_image_is_left_out_of_its_pack(tmp_path):
    root = write_2017(tmp_path / "raw", [row(f"1/{number}.jpg", number) for number in range(5)])
    write_2017(root, [row("2/0.jpg"), row("2/1.jpg")], "validation")
    images = root / "Manually_Annotated/Manually_Annotated_Images"
    (images / "1/2.jpg").write_bytes((images / "1/2.jpg").read_bytes()[:200])
    for name in ("0", "1"):
        (images / f"2/{name}.jpg").write_bytes(b"no picture")
    crops = CropSettings(size=24, codec="png", faces="box")
    summary = prepare_store(tmp_path / "crops", _affectnet(root), crops, workers=1)
    index = read_index(tmp_path / "crops/index.npz")
    assert index.keys == [f"1/{number}.jpg" for number in (0, 1, 3, 4)]
    assert [index[number].expression for number in range(4)] == [0, 1, 3, 4]
    assert summary.skipped == {"image": 3, LEFT_OUT: 3}
    assert left_out_keys(read_report(tmp_path / "crops")) == {"1/2.jpg", "2/0.jpg", "2/1.jpg"}
    assert sorted(file.name for file in (tmp_path / "crops/packs").iterdir()) == ["train.00000.avi", "train.00000.npz"]
    # Again: the faults are named again, as the report is written anew.
    again = prepare_store(tmp_path / "crops", _affectnet(root), crops, workers=1)
    assert again.skipped == summary.skipped


def test_a_damaged_frame_does_not_count_but_its_clip_does(tmp_path):
    root = write_affwild2(tmp_path / "raw")
    name = "1-30-1280x720"
    (root / f"cropped_aligned/{name}/00003.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    options = {"images": ["cropped_aligned", "cropped_aligned_new_50_vids"], "on_fault": "skip", "lazy_init": True}
    parts = {part: AffWild2Dataset(str(root), part, **options) for part in ("train", "val")}
    crops = CropSettings(size=48, margin=None, faces="frame")
    summary = prepare_store(tmp_path / "crops", parts, crops, workers=1)
    record = read_index(tmp_path / "crops/index.npz")[0].results()
    assert record["video"] == name
    # 0 and 7 have no picture, 3 and 4 are marked in the labels, 2 is the damaged one.
    assert np.flatnonzero(~record["valid"]).tolist() == [0, 2, 3, 4, 7]
    assert np.flatnonzero(record["pack"].sizes == 0).tolist() == [0, 2, 7]
    assert np.flatnonzero(~record["face_found"]).tolist() == [0, 2, 7]
    assert summary.skipped == {"image": 1}
    assert read_report(tmp_path / "crops")[0].file.endswith(f"{name}/00003.jpg")
