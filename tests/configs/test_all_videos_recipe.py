"""Three sets in one run: they join, train by their shares, and are scored together and one by one."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS

from hocp_mm import launch
from hocp_mm.data_check import check_data
from hocp_mm.datasets.splits import write_split_files
from hocp_mm.errors import HOCPError
from tests.material.afew_va_files import write_afew_va
from tests.material.affectnet_files import row, write_2017
from tests.material.affwild2_files import write_affwild2
from tests.material.avec_files import write_avec
from tests.material.data_configs import dataset_config
from tests.material.processes import ROOT
from tests.material.raw_sets import KEYS
from tests.material.sewa_files import write_segment

PARTS = ("train", "val", "test")
NAMES = ("SEWA", "AFEW-VA", "AffWild2")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sets")
    for number, key in enumerate(KEYS[:3]):
        write_segment(folder / "SEWA", key, 12, first_number=40 * number)
    splits = dict(zip(PARTS, ([key] for key in KEYS), strict=False))
    write_split_files(folder / "SEWA/splits", splits, seed=0)
    return [folder / "SEWA", write_afew_va(folder / "AFEW-VA"), write_affwild2(folder / "Aff-Wild2")]


def small(roots: list[Path]):
    """The recipe with small pictures and batches."""
    given: dict[str, object] = {"train_dataloader.sampler.shares": (0.5, 0.25, 0.25)}
    for part in PARTS:
        given |= {f"{part}_dataloader.num_workers": 0, f"{part}_dataloader.persistent_workers": False}
        given[f"{part}_dataloader.batch_size"] = 4
        for number, root in enumerate(roots):
            at = f"{part}_dataloader.dataset.datasets.{number}"
            given |= {f"{at}.data_root": str(root), f"{at}.pipeline.1.size": 32}
            if part == "train":
                given |= {f"{at}.clips_per_video": 1, f"{at}.pipeline.2.size": 32}
    return launch.load_config(ROOT / "configs/hocp_all_videos.py", given)


def test_it_trains_by_shares_and_scores_all_sets_and_each(roots, tmp_path):
    cfg = small(roots)
    cfg.merge_from_dict({"train_cfg.max_epochs": 1, "param_scheduler.1.T_max": 1, "param_scheduler.1.end": 1})
    cfg.custom_hooks = []
    cfg.launcher, cfg.work_dir, cfg.experiment_name = "none", str(tmp_path / "run"), "all"
    runner = launch.make_runner(cfg, launch.build_datasets(cfg))
    before = runner.model.head.regress.weight.detach().clone()
    runner.train()
    assert not torch.equal(runner.model.head.regress.weight, before)
    loader = runner.train_loop.dataloader
    total = len(loader.dataset)
    sources = Counter(loader.dataset[index]["data_samples"].source for index in loader.sampler.sampler)
    ends = [round(0.5 * total), round(0.75 * total), total]
    assert sources == dict(zip(NAMES, np.diff([0, *ends]).tolist(), strict=True))
    scores = runner.test()
    for name in ("ccc_mean", *(f"{source}/ccc_mean" for source in NAMES)):
        assert np.isfinite(scores[f"affect/{name}"]), name


def test_the_check_reads_all_parts(roots):
    report = check_data(small(roots), workers=0, deep=False)
    assert report.ok, report.faults
    assert [part.name for part in report.parts] == [f"{split} {n}" for split in PARTS for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("affectnet")
    write_2017(root, [row("1/a.jpg", 1), row("1/b.jpg", 0)])
    return root


def test_any_two_of_our_sets_join(roots, pictures, tmp_path):
    sewa, afew_va, affwild2 = roots
    configs = [
        dataset_config("SEWADataset", sewa),
        dataset_config("SEWADataset", sewa, label_range=(-2, 2)),
        dataset_config("AFEWVADataset", afew_va, fold=0, label_range=(-10, 10)),
        dataset_config("AffWild2Dataset", affwild2),
        dataset_config("AffectNetDataset", pictures, clip_len=1),
        dataset_config("AffectNetDataset", pictures, clip_len=1, classes="va_only"),
        dataset_config("AVECDataset", write_avec(tmp_path / "AVEC"), faces="frame"),
    ]
    whole = [DATASETS.build(config) for config in configs]
    for one in whole:
        for other in whole:
            both = DATASETS.build({"type": "mmengine.ConcatDataset", "datasets": [one, other]})
            assert len(both) == len(one) + len(other)
            assert both.metainfo == {"dims": ("valence", "arousal")}


def test_sets_that_number_their_expressions_differently_do_not_join(pictures):
    configs = [dataset_config("AffectNetDataset", pictures, clip_len=1, classes=classes) for classes in (8, "emonet5")]
    cfg = {"default_scope": "hocp_mm", "train_dataloader": {"dataset": {"type": "ConcatDataset", "datasets": configs}}}
    with pytest.raises(HOCPError, match="joined data sets must have the same expressions, got neutral, "):
        launch.build_datasets(cfg)
    cfg["train_dataloader"]["dataset"]["datasets"] = [configs[0], configs[0]]
    assert len(launch.build_datasets(cfg)["train"]) == 4
