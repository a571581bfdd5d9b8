"""The AVEC recipe on recordings of two seconds: it trains, tests on every frame, and takes boxes and a delay."""

import json

import numpy as np
import pytest
import torch

from hocp_mm import launch
from hocp_mm.registry import DATASETS
from hocp_mm.structures import AffectTimeline
from tests.material.avec_files import arousal_at, valence_at, write_avec
from tests.material.processes import ROOT

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def avec_root(tmp_path_factory):
    return write_avec(tmp_path_factory.mktemp("avec") / "AVEC2019")


def small(root, **options):
    """The recipe with small pictures and batches."""
    given = {"train_dataloader.dataset.clips_per_video": 1, "train_dataloader.dataset.pipeline.2.size": 32}
    for part in PARTS:
        given |= {f"{part}_dataloader.dataset.{key}": value for key, value in options.items()}
        given |= {f"{part}_dataloader.dataset.data_root": str(root), f"{part}_dataloader.batch_size": 2}
        given |= {f"{part}_dataloader.num_workers": 0, f"{part}_dataloader.persistent_workers": False}
        given[f"{part}_dataloader.dataset.pipeline.1.size"] = 32
    return launch.load_config(ROOT / "configs/hocp_avec.py", given)


def test_one_iteration_trains_and_the_test_meets_every_frame(avec_root, tmp_path):
    cfg = small(avec_root)
    cfg.merge_from_dict({"train_cfg.max_epochs": 1, "param_scheduler.1.T_max": 1, "param_scheduler.1.end": 1})
    cfg.custom_hooks = []
    cfg.launcher, cfg.work_dir, cfg.experiment_name = "none", str(tmp_path / "run"), "avec"
    cfg.test_evaluator.out_dir = str(tmp_path / "results")
    runner = launch.make_runner(cfg, launch.build_datasets(cfg))
    before = runner.model.head.regress.weight.detach().clone()
    runner.train()
    assert runner.iter == 1  # two recordings, one batch
    assert not torch.equal(runner.model.head.regress.weight, before)
    assert np.isfinite(list(runner.test().values())).all()
    timeline = AffectTimeline.from_csv(tmp_path / "results/Devel_DE_01.csv")
    seconds = np.arange(50) / 25
    np.testing.assert_array_equal(timeline.frames, np.arange(50))
    expected = np.stack([valence_at(seconds), arousal_at(seconds)], axis=1)
    np.testing.assert_allclose(timeline.target, expected, atol=1e-5)


def test_boxes_reach_all_three_parts(avec_root, tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({name: [4, 4, 20, 20] for name in ("Train_DE_01", "Train_HU_01", "Devel_DE_01")}))
    for dataset in launch.build_datasets(small(avec_root, faces="given", boxes_file=str(boxes))).values():
        np.testing.assert_array_equal(dataset.get_data_info(0)["boxes"][0], [4, 4, 20, 20])
        assert dataset[0]["inputs"].shape == (3, 16, 32, 32)


def test_the_delay_in_front_of_a_pipeline_moves_the_labels(avec_root):
    config = small(avec_root).val_dataloader.dataset
    config.pipeline.insert(0, {"type": "hocp_mm.CompensateLabelDelay", "seconds": 0.4})
    sample = DATASETS.build(config)[0]["data_samples"]
    seconds = np.asarray(sample.frame_inds) / 25 + 0.4
    np.testing.assert_allclose(sample.gt_affect[:, 0].numpy(), valence_at(seconds), atol=1e-5)
