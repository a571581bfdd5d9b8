"""The config: read and overridden, one fold or one store for all of its data sets."""

import copy
import json
import re
import sys

import pytest
from mmengine.config import Config

from hocp_mm.datasets.splits import write_split_files
from hocp_mm.datasets.store import CropSettings
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.launch import build_datasets, load_config
from hocp_mm.registry import TRANSFORMS
from tests.material.processes import ROOT
from tests.material.store_files import picture, write_store


@pytest.mark.parametrize(
    ("text", "reason"),
    [("model = dict(type='A'\n", "SyntaxError"), ("model = unknown_name\n", "NameError: name 'unknown_name'")],
    ids=["no Python", "an unknown name"],
)
def test_a_file_that_is_no_config_is_named_with_the_reason(tmp_path, text, reason):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(HOCPError, match=rf"config: .*broken\.py cannot be read \({reason}.+\)\."):
        load_config(path)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"no such file: .*absent\.py"):
        load_config(tmp_path / "absent.py")


def test_options_override_keys(tmp_path):
    path = tmp_path / "small.py"
    path.write_text("model = dict(rank=4)\n")
    assert load_config(path, {"model.rank": 8}).model.rank == 8


# What a config imports.

MODULE = """
from hocp_mm.registry import TRANSFORMS

@TRANSFORMS.register_module()
class {name}:
    pass
"""
IMPORTS = "custom_imports = dict(imports=['{name}'], allow_failed_imports=False)\n"
PURE = "from mmengine.config import read_base\nwith read_base():\n    from .{base} import *\n"
STYLES = {  # the base, the leaf
    "text": ("a = 1\n", "_base_ = './{base}.py'\n" + IMPORTS),
    "text, in the base": (IMPORTS, "_base_ = './{base}.py'\n"),
    "pure": ("a = 1\n", PURE + IMPORTS),
    "pure, in the base": (IMPORTS, PURE),
}


@pytest.fixture
def importing(request, tmp_path, monkeypatch):
    """A config in the style ``request.param``, and the name of the module and of the transform that it brings."""
    name = "brought_by_" + re.sub(r"\W+", "_", request.param)
    monkeypatch.syspath_prepend(tmp_path)
    for file, text in zip(("base", "leaf"), STYLES[request.param], strict=True):
        (tmp_path / f"{file}.py").write_text(text.format(base="base", name=name))
    yield tmp_path / "leaf.py", name
    sys.modules.pop(name, None)
    TRANSFORMS.module_dict.pop(name, None)


@pytest.mark.parametrize("importing", STYLES, indirect=True)
def test_custom_imports_are_imported_in_either_style(importing):
    path, name = importing
    path.with_name(f"{name}.py").write_text(MODULE.format(name=name))
    assert load_config(path).custom_imports.imports == [name]
    assert TRANSFORMS.get(f"hocp_mm.{name}").__module__ == name


@pytest.mark.parametrize("importing", STYLES, indirect=True)
def test_a_custom_import_that_fails_is_named_in_either_style(importing):
    path, name = importing
    text = rf"config: .*leaf\.py cannot be read \(ImportError: Failed to import {name}\); .* in PYTHONPATH\.$"
    with pytest.raises(HOCPError, match=text):
        load_config(path)
    path.with_name(f"{name}.py").write_text("raise ValueError('not today')\n")
    with pytest.raises(HOCPError, match=r"config: .*leaf\.py cannot be read \(ValueError: not today\)"):
        load_config(path)


# Names.


@pytest.mark.parametrize(
    ("option", "instead"),
    {
        "train_pipeline.1.size": "train_dataloader.dataset.pipeline.1.size",
        "train_pipeline": "train_dataloader.dataset.pipeline",
        "test_pipeline.0.clip_len": "val_dataloader.dataset.pipeline.0.clip_len and test_dataloader.dataset.pipeline"
        ".0.clip_len",
        "stages.1.begin": "custom_hooks.1.stages.1.begin",
        "cosine.T_max": "param_scheduler.1.T_max",
        "warm_up.end": "param_scheduler.0.end",
    }.items(),
)
def test_an_option_for_a_mere_name_is_refused_with_the_place_that_is_read(option, instead):
    path = ROOT / "configs/hocp_sewa.py"
    with pytest.raises(HOCPError, match=rf"config: {option.split('.')[0]} is only a name, .*; set {instead}\.$"):
        load_config(path, {option: 3})
    assert load_config(path, dict.fromkeys(instead.split(" and "), 3)) is not None


def test_what_a_run_reads_is_no_mere_name(tmp_path):
    """Although a part may look like it."""
    path = tmp_path / "alike.py"
    path.write_text("test_cfg = dict(flip=False)\nmodel = dict(test_cfg=test_cfg)\nempty = []\nother = dict(a=[])\n")
    cfg = load_config(path, {"test_cfg.flip": True, "empty": [1], "other.a": [2], "new.b": 1})
    assert (cfg.test_cfg.flip, cfg.model.test_cfg.flip, cfg.empty, cfg.other.a, cfg.new.b) == (True, False, [1], [2], 1)


# Folds.

FOLDED = """
fold = 0
train_dataloader = dict(dataset=dict(type="RepeatDataset", dataset=dict(type="A", fold=0)))
val_dataloader = dict(dataset=dict(type="A", fold=0))
test_dataloader = dict(dataset=dict(type="ConcatDataset", datasets=[dict(type="A", fold=0), dict(type="B")]))
"""
LOADERS = (
    "train_dataloader.dataset.dataset.fold",
    "val_dataloader.dataset.fold",
    "test_dataloader.dataset.datasets.0.fold",
)


@pytest.fixture
def folded(tmp_path):
    path = tmp_path / "folded.py"
    path.write_text(FOLDED)
    return path


def _folds(cfg):
    train, val, test = (cfg[f"{split}_dataloader"].dataset for split in ("train", "val", "test"))
    return train.dataset.fold, val.fold, test.datasets[0].fold


def test_one_fold_reaches_every_data_set(folded):
    cfg = load_config(folded, {"fold": 3})
    assert (cfg.fold, *_folds(cfg)) == (3, 3, 3, 3)
    assert "fold" not in cfg.test_dataloader.dataset.datasets[1]
    assert _folds(load_config(folded)) == (0, 0, 0)


def test_folds_given_for_each_loader_count_too(folded):
    cfg = load_config(folded, dict.fromkeys(LOADERS[:2], 2) | {"test_dataloader.dataset.datasets": [{"fold": 2}]})
    assert (cfg.fold, *_folds(cfg)) == (2, 2, 2, 2)


def test_folds_that_differ_would_test_on_training_people_and_are_refused(folded):
    with pytest.raises(
        HOCPError, match="all data sets must read one fold, got train_dataloader 2, val_dataloader 0, test_dataloader 0"
    ):
        load_config(folded, {LOADERS[0]: 2})
    with pytest.raises(HOCPError, match="give fold once, for all data sets, or for each of them, got both"):
        load_config(folded, {LOADERS[0]: 2, "fold": 1})


def test_a_fold_for_data_without_folds_is_refused(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("train_dataloader = dict(dataset=dict(type='A'))\n")
    with pytest.raises(HOCPError, match="fold=1 needs a data set with folds, got none"):
        load_config(path, {"fold": 1})


# Stores.

DEMOS = {
    "sewa": ("SEWADataset", {"labels": "V", "label_range": [-1.0, 1.0]}, 1.0),
    "afew_va": ("AFEWVADataset", {"label_range": [-10.0, 10.0], "fps": 25.0}, 4 / 3),
    "affectnet": (
        "AffectNetDataset",
        {"label_range": [-1.0, 1.0], "release": "2017", "classes": 8, "emonet_clean": False},
        1.0,
    ),
}


KEYS = [f"SSL_C2_S055_P{person}_VC1_004803_005542" for person in (109, 110, 111)]  # of SEWA, which reads them


@pytest.fixture
def store(tmp_path, request):
    """A store as the demo of a data set would find it; ``request.param`` is its name."""
    dataset, options, aspect = DEMOS[request.param]
    crop = CropSettings(size=54, faces="landmarks" if request.param == "sewa" else "inner", pixel_aspect=aspect)
    folder = tmp_path / "store"
    records = {key: [picture(frame, 54) for frame in range(3)] for key in KEYS}
    metainfo = {"dims": ["valence", "arousal"]}
    write_store(folder, records, crop, dataset=dataset, record_options=options, metainfo=metainfo)
    parts = dict(zip(("train", "val", "test"), ([key] for key in KEYS), strict=True))
    write_split_files(folder / ("folds/fold_1" if request.param == "afew_va" else "splits"), parts, seed=0)
    return folder


@pytest.mark.parametrize(("store", "demo"), [(name, name) for name in DEMOS], indirect=["store"])
def test_a_store_takes_the_place_of_every_raw_data_set(store, demo):
    fold = {"fold": 1} if demo == "afew_va" else {}
    path = ROOT / f"configs/hocp_{demo}_demo.py"
    raw, cfg = load_config(path, fold), load_config(path, {"store": str(store), **fold})
    for split in ("train", "val", "test"):
        before, after = raw[f"{split}_dataloader"], cfg[f"{split}_dataloader"]
        assert {**before, "dataset": None} == {**after, "dataset": None}
        kept = ("split", "fold", "pipeline", "clips_per_video", "windows", "test_mode", "on_fault")
        assert {name: after.dataset.get(name) for name in kept} == {name: before.dataset.get(name) for name in kept}
        assert (after.dataset.type, after.dataset.data_root) == ("hocp_mm.FaceCropDataset", str(store))
        assert set(after.dataset) - set(kept) == {"type", "data_root", "expected"}
    datasets = build_datasets(cfg)
    videos = {split: [record["video"] for record in dataset.load_videos()] for split, dataset in datasets.items()}
    train, val, test = KEYS
    assert videos == {"train": [train], "val": [val], "test": [val if demo == "affectnet" else test]}
    assert {name: tuple(dataset[0]["inputs"].shape[-2:]) for name, dataset in datasets.items()} == {
        "train": (48, 48),
        "val": (48, 48),
        "test": (48, 48),
    }


@pytest.mark.parametrize("store", ["sewa"], indirect=True)
def test_a_config_with_a_store_can_be_written_and_read_again(store, tmp_path):
    """As every run does with its config in the work_dir."""
    cfg = load_config(ROOT / "configs/hocp_sewa_demo.py", {"store": str(store)})
    cfg.dump(tmp_path / "written.py")
    again = load_config(tmp_path / "written.py")
    assert again.train_dataloader.dataset == cfg.train_dataloader.dataset
    assert json.loads(json.dumps(again.train_dataloader.dataset.expected.to_dict())) == {
        "dataset": "SEWADataset",
        "label_range": [-1.0, 1.0],
        "labels": "V",
        "faces": "landmarks",
    }


@pytest.mark.parametrize(
    ("store", "demo", "option", "rule"),
    [
        ("sewa", "sewa", {"labels": "A"}, "labels='V' instead of 'A'"),
        ("sewa", "sewa", {"faces": "frame"}, "faces='landmarks' instead of 'frame'"),
        ("affectnet", "affectnet", {"classes": 7}, "classes=8 instead of 7"),
        ("affectnet", "affectnet", {"faces": None}, "faces='inner' instead of 'box'"),  # what the default stands for
        ("sewa", "affectnet", {}, "dataset='SEWADataset' instead of 'AffectNetDataset'"),
    ],
    indirect=["store"],
)
def test_a_store_of_other_labels_or_crops_is_refused(store, demo, option, rule):
    changes = {f"train_dataloader.dataset.{name}": value for name, value in option.items()}
    cfg = load_config(ROOT / f"configs/hocp_{demo}_demo.py", {"store": str(store), **changes})
    with pytest.raises(DataError, match=rf"prepared as the config reads the data, but it was with .*{rule}"):
        build_datasets(cfg)


WRAPPED = """
train_dataloader = dict(dataset=dict(type="RepeatDataset", times=3, dataset=dict(type="hocp_mm.SEWADataset",
    data_root="raw", length_tolerance=2, clips_per_video=5)))
val_dataloader = dict(dataset=dict(type="ConcatDataset", datasets=[
    dict(type="SEWADataset", data_root="raw", split="val"), dict(type="SomebodyElses", data_root="other")]))
default_scope = "hocp_mm"
"""


@pytest.mark.parametrize("store", ["sewa"], indirect=True)
def test_wrapped_data_sets_are_replaced_and_those_of_others_are_not(store, tmp_path):
    path = tmp_path / "wrapped.py"
    path.write_text(WRAPPED)
    cfg = load_config(path, {"store": str(store)})
    inner = cfg.train_dataloader.dataset.dataset
    assert (cfg.train_dataloader.dataset.times, inner.clips_per_video) == (3, 5)
    assert "length_tolerance" not in inner
    ours, others = cfg.val_dataloader.dataset.datasets
    assert (ours.type, ours.split, others.type) == ("hocp_mm.FaceCropDataset", "val", "SomebodyElses")


@pytest.mark.parametrize("store", ["sewa"], indirect=True)
def test_a_config_that_reads_a_store_can_be_given_another(store, tmp_path):
    """As the copy of a config that a run with a store leaves in its work_dir."""
    path = tmp_path / "own.py"
    own = "dict(type='hocp_mm.FaceCropDataset', data_root='mine', split='val')"
    path.write_text(f"val_dataloader = dict(dataset={own})\n")
    assert load_config(path, {"store": str(store)}).val_dataloader.dataset == {
        "type": "hocp_mm.FaceCropDataset",
        "data_root": str(store),
        "split": "val",
    }
    assert load_config(path).val_dataloader.dataset.data_root == "mine"


TWO_SETS = """
train_dataloader = dict(dataset=dict(type="hocp_mm.SEWADataset", data_root="raw"))
val_dataloader = dict(dataset=dict(type="hocp_mm.AVECDataset", data_root="raw"))
"""


TWO_FOLDERS = """
train_dataloader = dict(dataset=dict(type="ConcatDataset", datasets=[
    dict(type="hocp_mm.SEWADataset", data_root="raw"), dict(type="hocp_mm.SEWADataset", data_root="more")]))
val_dataloader = dict(dataset=dict(type="hocp_mm.SEWADataset", data_root="raw/", split="val"))
"""


@pytest.mark.parametrize("store", ["sewa"], indirect=True)
def test_stores_that_replace_nothing_or_too_much_are_refused(store, tmp_path):
    path = tmp_path / "config.py"
    path.write_text("train_dataloader = dict(dataset=dict(type='SomebodyElses'))\n")
    with pytest.raises(HOCPError, match="needs a loader with a data set of hocp_mm, got none"):
        load_config(path, {"store": str(store)})
    path.write_text(TWO_SETS)
    with pytest.raises(HOCPError, match="a store holds one data set, got AVECDataset and SEWADataset to replace"):
        load_config(path, {"store": str(store)})
    path.write_text(TWO_FOLDERS)
    with pytest.raises(HOCPError, match="a store holds one data set, got the folders 'more' and 'raw' to replace"):
        load_config(path, {"store": str(store)})
    path.write_text("train_dataloader = dict(dataset=dict(type='hocp_mm.SEWADataset', data_root='raw', label='V'))\n")
    with pytest.raises(DataError, match=r"config: train_dataloader: .*unexpected keyword argument 'label'"):
        load_config(path, {"store": str(store)})


@pytest.mark.parametrize("value", ["absent", 3])
def test_a_store_must_be_a_folder(value):
    with pytest.raises(MissingDataError, match=rf"config: store={value!r} must be a folder of face crops"):
        load_config(ROOT / "configs/hocp_sewa_demo.py", {"store": value})


def test_without_the_option_nothing_changes():
    path = ROOT / "configs/hocp_sewa_demo.py"
    before = Config.fromfile(str(path))
    assert load_config(path).train_dataloader == copy.deepcopy(before).train_dataloader
