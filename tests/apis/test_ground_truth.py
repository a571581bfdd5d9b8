"""Labels to draw against."""

from pathlib import Path

import numpy as np
import pytest

from hocp_mm.apis import with_ground_truth
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.structures import AffectTimeline


def timeline(video: str = "clip") -> AffectTimeline:
    return AffectTimeline(video, 25, np.arange(3), np.zeros((3, 2)), face_found=np.ones(3, dtype=bool))


def write(folder: Path, video: str = "clip", kind: str = "V", first: int = 0, rows: int = 3) -> Path:
    for name, value in (("Valence", 0.37), ("Arousal", -0.5)):
        lines = [f"frame,{name.lower()}", *(f"{first + i},{value + i / 10:.2f}" for i in range(rows))]
        (folder / f"{video}_{name}_{kind}_Aligned.csv").write_text("\n".join(lines))
    return folder


def test_labels_become_the_target(tmp_path: Path):
    table = with_ground_truth(timeline(), write(tmp_path), {})
    np.testing.assert_array_equal(table.target, np.float32([[0.37, -0.5], [0.47, -0.4], [0.57, -0.3]]))
    assert table.valid.all()
    assert table.face_found.all()


def test_kind_and_range_of_the_labels_are_those_of_the_config(tmp_path: Path):
    cfg = {"test_dataloader": {"dataset": {"labels": "AV", "label_range": (-10, 10)}}}
    table = with_ground_truth(timeline(), write(tmp_path, kind="AV"), cfg)
    assert table.target[0].tolist() == pytest.approx([0.037, -0.05])
    with pytest.raises(MissingDataError, match="clip_Valence_AV_Aligned"):
        with_ground_truth(timeline(), tmp_path / "nowhere", cfg)


def test_a_network_trained_on_a_store_has_the_labels_of_its_raw_data_set(tmp_path: Path):
    expected = {"dataset": "SEWADataset", "labels": "AV", "label_range": [-10.0, 10.0]}
    cfg = {"test_dataloader": {"dataset": {"type": "hocp_mm.FaceCropDataset", "expected": expected}}}
    table = with_ground_truth(timeline(), write(tmp_path, kind="AV"), cfg)
    assert table.target[0].tolist() == pytest.approx([0.037, -0.05])


def test_segments_may_count_from_their_place_in_the_recording(tmp_path: Path):
    key = "SSL_C2_S055_P109_VC1_004803_005542"
    assert with_ground_truth(timeline(key), write(tmp_path, key, first=4803), {}).target is not None


def test_labels_of_another_length_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="4 labels, but the video has 3 frames"):
        with_ground_truth(timeline(), write(tmp_path, rows=4), {})


@pytest.mark.parametrize(
    "dataset",
    [
        {"labels": "/../../secret"},
        {"labels": "V\0"},
        {"labels": 5},
        {"labels": "V" * 5000},
        {"label_range": 5},
        {"label_range": (1, 2, 3)},
        {"label_range": ("a", "b")},
        {"label_range": (1, 1)},
        {"label_range": (float("nan"), 1)},
        {"expected": {"labels": "../V"}},
    ],
    ids=str,
)
def test_a_strangers_config_names_no_file_elsewhere(dataset: dict, tmp_path: Path):
    with pytest.raises(HOCPError, match=r"^ground truth: the config's label"):
        with_ground_truth(timeline(), write(tmp_path), {"test_dataloader": {"dataset": dataset}})
    for loader in ({}, {"dataset": 5}, "text", {"dataset": {"expected": 5}}):  # says nothing: V, from -1 to 1
        assert len(with_ground_truth(timeline(), write(tmp_path), {"test_dataloader": loader})) == 3
