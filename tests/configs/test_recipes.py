"""Every recipe on disk parses, survives a dump, builds and takes training steps on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, METRICS, PARAM_SCHEDULERS, DefaultScope

from hocp_mm.registry import MODELS
from hocp_mm.structures import AffectDataSample
from tests.material.data_configs import joined
from tests.material.processes import ROOT

CONFIGS = ROOT / "configs"
RECIPES = sorted(CONFIGS.glob("*.py"))
DEMOS = [path for path in RECIPES if path.stem.endswith("_demo")]


def test_the_four_recipes_are_on_disk() -> None:
    assert {path.stem for path in RECIPES} >= {
        "hocp_sewa_static",
        "hocp_sewa",
        "hocp_sewa_static_demo",
        "hocp_sewa_demo",
    }


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def cfg(request: pytest.FixtureRequest) -> Config:
    return Config.fromfile(request.param)


def test_dump_reads_back_equal(cfg: Config, tmp_path: Path) -> None:
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()


def test_scores_choose_the_best_checkpoint(cfg: Config) -> None:
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.save_best, checkpoint.rule) == ("affect/ccc_mean", "greater")
    assert METRICS.build(cfg.val_evaluator).prefix == "affect"
    assert METRICS.build(cfg.test_evaluator).prefix == "affect"


def test_windows_agree_with_sampling(cfg: Config) -> None:
    for split in ("val", "test"):
        for dataset in joined(cfg[f"{split}_dataloader"].dataset):
            # Labels of the test parts were never published.
            unpublished = dataset.type in (
                "hocp_mm.AffectNetDataset",
                "hocp_mm.AffWild2Dataset",
                "hocp_mm.AVECDataset",
            )
            assert dataset.split in ((split, "val") if unpublished else (split,))
            assert dataset.windows.clip_len == dataset.pipeline[0].clip_len
            assert dataset.windows.stride <= dataset.windows.clip_len
    sizes = {dataset.pipeline[2].size for dataset in joined(cfg.train_dataloader.dataset)}
    sizes |= {dataset.pipeline[1].size for dataset in joined(cfg.test_dataloader.dataset)}
    assert len(sizes) == 1, "train and test must see one image size"


def test_clips_wait_in_pinned_memory_and_workers_live_on(cfg: Config) -> None:
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        assert loader.pin_memory
        # Workers that are started anew for every epoch are seeded alike and would draw the same clips again.
        assert loader.num_workers > 0
        assert loader.persistent_workers
    assert cfg.model.data_preprocessor.non_blocking


def test_schedule_fits_the_epochs(cfg: Config) -> None:
    epochs = cfg.train_cfg.max_epochs
    cosine = cfg.param_scheduler[1]
    assert cosine.T_max == cosine.end == epochs
    for hook in cfg.custom_hooks:
        if hook.type == "hocp_mm.StagedUnfreezeHook":
            assert all(stage.begin < epochs for stage in hook.stages)
            assert cfg.find_unused_parameters
    for scheduler in cfg.param_scheduler:
        assert PARAM_SCHEDULERS.get(scheduler.type) is not None


def test_hooks_build(cfg: Config) -> None:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = [HOOKS.build(hook) for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks)]
    assert len(built) == len(cfg.default_hooks) + len(cfg.custom_hooks)


def test_factors_lambda_norms_and_biases_do_not_decay(cfg: Config) -> None:
    model = MODELS.build(cfg.model)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(names)
    free = [
        n
        for n in decays
        if n.endswith((".factors.h", ".factors.w", ".factors.t", ".weights", ".bias")) or ".bn" in n or ".norm." in n
    ]
    assert free
    assert all(decays[name] == 0 for name in free)
    assert all(decay > 0 for name, decay in decays.items() if name not in free and "downsample.1" not in name)


def test_training_on_the_cpu_moves_every_parameter(cfg: Config) -> None:
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    temporal = [name for name, _ in model.named_parameters() if name.endswith("factors.t")]
    assert bool(temporal) == (cfg.model.backbone.temporal_kernel > 1)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # Three steps: timm starts residual branches at zero, and motion components in them theirs, so that the first two
    # cannot reach into them.
    for _ in range(3):
        log = model.train_step(random_batch(), optimizer)
        assert torch.isfinite(log["loss"])
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_only_shrinks_its_parent(path: Path) -> None:
    demo, parent = Config.fromfile(path), Config.fromfile(path.with_name(f"{path.stem.removesuffix('_demo')}.py"))
    assert set(demo.keys()) == set(parent.keys())
    for split in ("train", "val", "test"):
        ours, theirs = (cfg[f"{split}_dataloader"].dataset for cfg in (demo, parent))
        assert [step.type for step in ours.pipeline] == [step.type for step in theirs.pipeline]
        assert ours.data_root != theirs.data_root
        loading = ours.pipeline[1], theirs.pipeline[1]
        assert loading[0].size < loading[1].size
    assert demo.train_cfg.max_epochs < parent.train_cfg.max_epochs
    assert demo.model.type == parent.model.type


def random_batch(frames: int = 4, side: int = 32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(0, 256, (3, frames, side, side), generator=generator, dtype=torch.uint8) for _ in range(2)]
    samples = [
        AffectDataSample.from_clip(
            torch.rand(frames, 2, generator=generator) - 0.5,
            video=video,
            frame_inds=list(range(frames)),
            num_frames=frames,
            fps=25,
            expression=list(range(frames)),
        )
        for video in "ab"
    ]
    return {"inputs": clips, "data_samples": samples}
