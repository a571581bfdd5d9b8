"""The AffectNet recipe from pictures to scores, and on into a video network."""

import csv

import pytest
import torch

from hocp_mm import launch
from hocp_mm.checkpoints import read_checkpoint, unwrap_state_dict
from hocp_mm.engine import TransductionHook
from hocp_mm.registry import MODELS
from hocp_mm.synthetic import SyntheticAffectNetSpec, write_synthetic_affectnet
from tests.material.processes import ROOT


@pytest.mark.parametrize("release", ["2017", "2021"])
def test_one_epoch_and_a_test_run_and_the_result_starts_a_video_network(tmp_path, monkeypatch, release):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))
    write_synthetic_affectnet(tmp_path / "data", SyntheticAffectNetSpec(release, (3, 2), 8), workers=1)
    options = {"train_cfg.max_epochs": 1, "train_cfg.val_interval": 1, "work_dir": str(tmp_path / "run")}
    options |= {"launcher": "none", "experiment_name": f"affectnet_{release}", "test_evaluator.out_dir": str(tmp_path)}
    for split in ("train", "val", "test"):
        loader = f"{split}_dataloader"
        options |= {f"{loader}.dataset.data_root": str(tmp_path / "data"), f"{loader}.dataset.release": release}
        options |= {f"{loader}.batch_size": 8, f"{loader}.num_workers": 0, f"{loader}.persistent_workers": False}
    cfg = launch.load_config(ROOT / "configs/hocp_affectnet_demo.py", options)
    runner = launch.make_runner(cfg, launch.build_datasets(cfg))
    before = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    assert not torch.equal(after["head.classify.weight"], before["head.classify.weight"])
    scores = runner.test()
    keys = {f"affect/{name}_{row}" for name in ("ccc", "pcc", "rmse", "sagr") for row in ("valence", "arousal", "mean")}
    assert set(scores) == {*keys, "affect/expression_accuracy", "affect/expression_f1"}
    with (tmp_path / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    right = [row["expression"] == row["expression_true"] for row in rows]
    assert scores["affect/expression_accuracy"] == pytest.approx(sum(right) / 16)
    with (tmp_path / "expressions.csv").open() as file:
        assert [row["expression"] for row in csv.DictReader(file)][1] == "happy"

    (best,) = (tmp_path / "run").glob("best_*.pth")
    video = MODELS.build(launch.load_config(ROOT / "configs/hocp_sewa_demo.py").model)
    report = TransductionHook(str(best), cache=False).load(video)
    assert report.classifier == ["head.classify.weight", "head.classify.bias"]
    assert report.complete
    static = unwrap_state_dict(read_checkpoint(best), best)
    assert torch.equal(video.head.regress.weight, static["head.regress.weight"])
