"""Values that mmengine takes without a word are refused by their key; what recipes say passes."""

from pathlib import Path

import pytest
from mmengine.config import Config, DictAction

from hocp_mm.errors import HOCPError
from hocp_mm.launch import check_config
from tests.material.processes import ROOT

CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def text() -> str:
    return Config.fromfile(CONFIGS / "hocp_sewa.py").pretty_text


@pytest.fixture
def cfg(text: str) -> Config:
    return Config.fromstring(text, ".py")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("hocp*.py")), ids=lambda path: path.stem)
def test_the_recipes_pass(path: Path) -> None:
    if path.parent == CONFIGS:
        check_config(Config.fromfile(path), "train")
        check_config(Config.fromfile(path), "test")


GOOD = """
default_hooks.checkpoint.interval=-1
default_hooks.checkpoint.max_keep_ckpts=-1
default_hooks.timer=None
default_scope=mmengine
default_scope=None
custom_hooks=None
model.neck=None
randomness.seed=None
randomness.seed=4294967295
optim_wrapper.optimizer.lr=0
optim_wrapper.optimizer.lr=1e-3
optim_wrapper.optimizer.type=SGD
optim_wrapper.clip_grad=None
train_dataloader.num_workers=0
train_dataloader.prefetch_factor=None
param_scheduler.0.end=None
log_level=DEBUG
log_level=10
load_from=a.pth
visualizer=None
"""


@pytest.mark.parametrize("option", GOOD.split())
def test_what_may_be_said_passes(option: str, cfg: Config) -> None:
    key, _, value = option.partition("=")
    cfg.merge_from_dict({key: DictAction._parse_int_float_bool(value)})
    check_config(cfg, "train")


BAD: dict[str, list[object]] = {
    "train_cfg": [None, 5],
    "train_dataloader": [None, "x"],
    "optim_wrapper": [None],
    "model": [None, 5],
    "train_cfg.max_epochs": [2**31, 10**30, -1, 0, 1.5, "two", True, None, float("nan")],
    "train_cfg.val_interval": [0, -1, "x"],
    "train_cfg.by_epoch": ["no"],
    "train_dataloader.batch_size": [0, -1, "a", 2.5, True],
    "val_dataloader.num_workers": [-1, "many", 1.0],
    "val_dataloader.dataset": [None, 5, {}, {"type": 5}],
    "val_dataloader.dataset.pipeline": [None, "x"],
    "train_dataloader.dataset.pipeline.1": [None, {"size": 3}],
    "val_cfg": [None],
    "val_evaluator": [None],
    "model.backbone": [None, "resnet18"],
    "model.test_cfg.flip": ["maybe", 1],
    "optim_wrapper.optimizer": [None],
    "optim_wrapper.optimizer.type": ["Adamm"],
    "optim_wrapper.optimizer.lr": [-1, float("nan"), float("inf"), "x", True],
    "optim_wrapper.clip_grad.max_norm": [0, -1, "x"],
    "optim_wrapper.accumulative_counts": [0],
    "param_scheduler.0.begin": [-5],
    "param_scheduler.1.T_max": [0, -1, "x"],
    "default_hooks": ["x"],
    "default_hooks.checkpoint": ["x", {}],
    "default_hooks.checkpoint.interval": [0, -2, "x"],
    "default_hooks.checkpoint.max_keep_ckpts": [0, -5, "x"],
    "default_hooks.logger.interval": [0, -1],
    "custom_hooks": ["x", {}],
    "custom_hooks.0": [None, {"source": "timm"}],
    "custom_hooks.0.source": [5],
    "default_scope": ["nonsense", 5, "a.b", ""],
    "randomness": [5],
    "randomness.seed": [-1, 2**32, "x", 1.5],
    "env_cfg": [5],
    "log_level": ["LOUD", 1.5],
    "load_from": [5],
    "resume": ["maybe", 1],
    "work_dir": [5],
    "auto_scale_lr": [5],
    "auto_scale_lr.base_batch_size": [0],
    "find_unused_parameters": ["maybe"],
}


@pytest.mark.parametrize("key", BAD)
def test_what_nothing_can_mean_is_refused_by_its_key(key: str, cfg: Config) -> None:
    before = cfg.to_dict()
    for value in BAD[key]:
        changed = Config(before)
        *way, last = key.split(".")
        place = changed._cfg_dict
        for word in way:
            place = place[int(word)] if isinstance(place, list) else place[word]
        place[int(last) if isinstance(place, list) else last] = value
        with pytest.raises(HOCPError, match=rf"^config: {key} must be .*, got .*\.$"):
            check_config(changed, "train")


def test_long_values_are_cut(cfg: Config) -> None:
    cfg.train_cfg.max_epochs = "x" * 9999
    with pytest.raises(HOCPError) as error:
        check_config(cfg, "train")
    assert len(str(error.value)) < 400


def test_a_test_needs_no_training(cfg: Config) -> None:
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = None
    check_config(cfg, "test")
    cfg.test_dataloader = None
    with pytest.raises(HOCPError, match="test_dataloader must be a dict, got None"):
        check_config(cfg, "test")
