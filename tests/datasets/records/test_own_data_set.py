"""The data set that `docs/own_data_set.md` shows, run as it stands there."""

import re

import numpy as np
import pytest

from hocp_mm.data_check import check_data
from hocp_mm.datasets import write_split_files
from hocp_mm.errors import DataError
from hocp_mm.launch import load_config
from tests.material.odd_videos import write_video
from tests.material.processes import ROOT
from tests.material.sewa_files import draw_number

PAGE = ROOT / "docs" / "own_data_set.md"
LONGEST = 75
CONFIG = """
import sys
sys.path.insert(0, {folder!r})
custom_imports = dict(imports=["lab"], allow_failed_imports=False)
pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=4),
    dict(type="hocp_mm.LoadFaceClip", size=32),
    dict(type="hocp_mm.PackAffectInputs"),
]
train_dataloader = dict(dataset=dict(type="hocp_mm.LabDataset", data_root={root!r}, split="train", pipeline=pipeline))
val_dataloader = dict(dataset=dict(type="hocp_mm.LabDataset", data_root={root!r}, split="val", pipeline=pipeline))
"""


@pytest.fixture(scope="module")
def lab():
    """The code of the page, as a module."""
    code = re.search(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= LONGEST
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["LabDataset"]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "lab"
    folder.mkdir()
    for number, key in enumerate(("ann_1", "ann_2", "bob_1", "cho_1")):
        write_video(
            folder / f"{key}.mp4", "mpeg4", 6, draw=lambda frame, number=number: draw_number(10 * number + frame)
        )
        lines = "".join(f"{frame / 10},{-number / 10}\n" for frame in range(6))
        (folder / f"{key}.csv").write_text(f"valence,arousal\n{lines}")
    write_split_files(folder / "splits", {"train": ["ann_1", "ann_2"], "val": ["bob_1"], "test": ["cho_1"]}, seed=0)
    return folder


def test_it_gives_its_records(lab, root):
    dataset = lab(str(root), lazy_init=True)
    first, second = dataset.load_records()
    assert (first.key, first.subject, first.num_frames) == ("ann_1", "ann", 6)
    np.testing.assert_allclose(second.affect, [[frame / 10, -0.1] for frame in range(6)], rtol=1e-6)


def test_its_faults_are_told_together(lab, root):
    (root / "ann_1.csv").write_text("valence,arousal\n0.1,0.2\n")
    (root / "ann_2.mp4").unlink()
    with pytest.raises(DataError, match=r"got 2 faults:\n.*ann_1\.csv: must have the 6 lines.*\n.*ann_2\.mp4: no such"):
        lab(str(root))


def test_one_person_in_two_parts_is_refused(lab, root):
    write_split_files(root / "splits", {"val": ["ann_2"], "train": ["ann_1"], "test": []}, seed=0)
    with pytest.raises(DataError, match="group 'ann' is in"):
        lab(str(root))


def test_a_clip_that_is_named_twice_is_refused(lab, root, monkeypatch):
    monkeypatch.setattr(lab, "keys", lambda self: ["ann_1", "ann_2", "ann_1"])
    with pytest.raises(DataError, match=r"LabDataset\(train\): a clip must be named once, got 'ann_1' more than once"):
        lab(str(root))


def test_a_copied_video_is_found(lab, root):
    (root / "ann_2.mp4").write_bytes((root / "ann_1.mp4").read_bytes())
    with pytest.raises(DataError, match="two recordings must not have the same content"):
        lab(str(root))


def test_the_check_reads_it(lab, root, tmp_path):
    code = re.search(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL)[1]
    (tmp_path / "lab.py").write_text(
        code.replace("@DATASETS.register_module()", "@DATASETS.register_module(force=True)")
    )
    (tmp_path / "config.py").write_text(CONFIG.format(folder=str(tmp_path), root=str(root)))
    report = check_data(load_config(tmp_path / "config.py"), workers=0)
    assert report.faults == ()
    assert [(part.name, part.records, part.frames) for part in report.parts] == [("train", 2, 12), ("val", 1, 6)]
