"""The text recipes that inherit MMAction2's own: they parse, survive a dump, build and train on the CPU."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from hocp_mm import compat
from hocp_mm.engine import TransductionHook
from hocp_mm.launch import build_model
from hocp_mm.layers import HOCPConv3d
from tests.material.processes import ROOT

compat.apply()

from mmaction.structures import ActionDataSample  # noqa: E402 - after the work-arounds

INTEROP = ROOT / "configs" / "interop"
RECIPES = sorted(INTEROP.glob("*.py"))
# As `--cfg-options` would say it: the same network, small enough for a test.
SMALL = {
    "model.backbone.depth": 18,
    "model.backbone.conv_cfg.rank": 2,
    "model.cls_head.in_channels": 512,
    "model.cls_head.num_classes": 5,
}


def test_the_interop_recipe_is_on_disk() -> None:
    assert [path.stem for path in RECIPES] == ["slowonly_r50_hocp_rank64_kinetics400_rgb"]


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def cfg(request: pytest.FixtureRequest) -> Config:
    return Config.fromfile(request.param)


def test_dump_reads_back_equal(cfg: Config, tmp_path: Path) -> None:
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()


def test_the_recipe_changes_only_what_hocp_needs(cfg: Config) -> None:
    assert "hocp_mm.compat.auto" in sys.modules, "custom_imports did not run"
    ours, theirs = without_scopes(cfg.to_dict()), Config.fromfile(cfg_base(cfg)).to_dict()
    assert ours.pop("custom_hooks") == [{"type": "hocp_mm.TransductionHook", "source": "resnet50"}]
    assert ours.pop("custom_imports")["imports"] == ["hocp_mm.compat.auto"]
    backbone, stock = ours["model"].pop("backbone"), theirs["model"].pop("backbone")
    assert backbone.pop("conv_cfg") == {"type": "hocp_mm.HOCPConv3d", "rank": 64}
    assert stock.pop("pretrained").endswith("resnet50-11ad3fa6.pth")
    assert backbone.pop("pretrained") is None
    assert (ours, backbone) == (theirs, stock)


def without_scopes(value: Any) -> Any:
    """Leave out the words by which MMEngine marks what is inherited from another package."""
    if isinstance(value, dict):
        return {key: without_scopes(inner) for key, inner in value.items() if key != "_scope_"}
    return [without_scopes(inner) for inner in value] if isinstance(value, list) else value


def cfg_base(cfg: Config) -> str:
    """Where MMAction2's wheel keeps the recipe that ours inherits."""
    import mmaction

    text = next(line for line in Path(cfg.filename).read_text().splitlines() if line.startswith("_base_"))
    return str(Path(mmaction.__path__[0]) / ".mim" / "configs" / text.split("::")[1].strip('"'))


def test_hooks_build(cfg: Config) -> None:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = [HOOKS.build(hook) for hook in cfg.custom_hooks]
    assert [type(hook) for hook in built] == [TransductionHook]


def clip(side: int = 32) -> dict[str, Any]:
    sample = ActionDataSample()
    sample.set_gt_label(3)
    return {"inputs": torch.randint(0, 256, (1, 3, 8, side, side), dtype=torch.uint8), "data_samples": sample}


@pytest.mark.parametrize("options", [{}, SMALL], ids=["as it is", "small"])
def test_one_training_step_moves_every_temporal_factor(cfg: Config, options: dict[str, Any]) -> None:
    cfg.merge_from_dict(options)
    torch.manual_seed(0)
    model = build_model(cfg)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, HOCPConv3d)}
    assert len(layers) == (20 if options else 53)
    assert {layer.rank for layer in layers.values()} == {cfg.model.backbone.conv_cfg.rank}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    temporal = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("factors.t")}
    log = model.train_step(pseudo_collate([clip(), clip()]), optimizer)
    assert torch.isfinite(log["loss"])
    after = dict(model.named_parameters())
    assert len(temporal) == len(layers)
    assert [n for n, before in temporal.items() if torch.equal(before, after[n])] == []
    assert all(torch.isfinite(p).all() for p in after.values())


class Clips(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return clip()


class Photograph(Hook):
    """What training starts from."""

    priority = "LOWEST"
    state: dict[str, torch.Tensor]

    def before_train(self, runner: Runner) -> None:
        self.state = copy.deepcopy(runner.model.state_dict())


def test_the_hook_starts_the_recipe_from_a_timm_network(cfg: Config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = timm.create_model("resnet18")
    for module in image.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.weight, module.running_mean):
                torch.nn.init.normal_(tensor)
    torch.save(image.state_dict(), tmp_path / "resnet18.pth")
    cfg.merge_from_dict({**SMALL, "custom_hooks.0.source": str(tmp_path / "resnet18.pth"), "work_dir": str(tmp_path)})
    cfg.merge_from_dict({"custom_hooks.0.cache": False, "train_cfg.max_epochs": 1, "train_cfg.val_begin": 2})
    photograph = Photograph()
    runner = Runner(
        model=cfg.model,
        work_dir=cfg.work_dir,
        train_dataloader={"batch_size": 2, "num_workers": 0, "dataset": Clips(), "sampler": {"type": "DefaultSampler"}},
        train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        default_hooks=cfg.default_hooks,
        custom_hooks=[*cfg.custom_hooks, photograph],
        default_scope=cfg.default_scope,
        experiment_name=tmp_path.name,
    )
    runner.train()
    # MMAction2's init_weights, which sets every norm to one or zero, has not come after the hook.
    for name in ("weight", "running_mean"):
        theirs = image.state_dict()[f"layer4.1.bn2.{name}"]
        assert torch.equal(photograph.state[f"backbone.layer4.1.conv2.bn.{name}"], theirs)
    taps = photograph.state["backbone.layer4.1.conv2.conv.factors.t"]
    assert taps.tolist() == [[0, 0], [1, 1], [0, 0]]
    hook = next(hook for hook in runner.hooks if isinstance(hook, TransductionHook))
    assert hook.report is not None
    assert hook.report.complete
    assert len(hook.report.decomposed) == len(hook.report.transducted) == 20
    moved = runner.model.state_dict()["backbone.layer4.1.conv2.conv.factors.t"]
    assert not torch.equal(moved, taps)
