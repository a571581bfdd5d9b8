"""The header of a store: read as written, or one error that names the file."""

import json

import pytest

from hocp_mm.datasets.store import CropSettings, StoreHeader, read_header, write_header
from hocp_mm.errors import DataError, MissingDataError

HEADER = StoreHeader(
    dataset="AFEWVADataset",
    metainfo={"dims": ("valence", "arousal"), "dataset_type": "AFEW-VA"},
    record_options={"label_range": [-10.0, 10.0]},
    crop=CropSettings(size=64, pixel_aspect=4 / 3),
    counts={"records": 3, "frames": 40},
    splits=["folds"],
    package_version="0.1",
)


def test_a_header_comes_back_whole(tmp_path):
    assert read_header(write_header(tmp_path, HEADER).parent) == HEADER
    assert [file.name for file in tmp_path.iterdir()] == ["store.json"]


def test_a_folder_without_header_is_no_store(tmp_path):
    with pytest.raises(MissingDataError, match=r"store\.json: no such file, so .* is no store of face crops"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"format_version": 2}, "format_version must be 1, got 2; prepare the store again"),
        ({"dataset": 3}, r"must hold dataset, .*got \['dataset'\]"),
        ({"surprise": 3}, r"must hold dataset, .*got \['surprise'\]"),
        ({"crop": {}}, "crop settings must be"),
    ],
)
def test_a_header_of_another_kind_is_refused(tmp_path, change, rule):
    path = write_header(tmp_path, HEADER)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=rf"store\.json: {rule}"):
        read_header(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_a_header_that_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "store.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"store\.json: "):
        read_header(tmp_path)
