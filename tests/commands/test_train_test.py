"""``tools/train.py`` and ``tools/test.py`` on a tiny set: they work, and a user's mistake ends in one line."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import Tensor, nn

from hocp_mm.apis.recorded_config import read_recorded_config
from hocp_mm.checkpoints import read_checkpoint, unwrap_state_dict
from hocp_mm.errors import CheckpointError, DataError, HOCPError, MissingDataError
from hocp_mm.registry import DATASETS, HOOKS, MODELS
from hocp_mm.structures import AffectDataSample
from hocp_mm.system import cli
from tests.material.processes import ROOT
from tests.material.readings import count_readings

TRAIN, TEST = import_module("hocp_mm.commands.train"), import_module("hocp_mm.commands.test")
RUN = itertools.count()


@DATASETS.register_module(name="TinyClips", force=True)
class TinyClips(torch.utils.data.Dataset[dict[str, Any]]):
    """Clips whose brightness is the valence and whose contrast is the arousal."""

    def __init__(self, videos: int = 4, fault: str | None = None) -> None:
        if fault == "missing":
            raise MissingDataError("TinyClips: folder 'nowhere' does not exist.")
        self.videos, self.fault = videos, fault

    def __len__(self) -> int:
        return self.videos

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one clip, or fail as a broken file would."""
        if self.fault == "broken":
            raise DataError(f"video {index}.avi: the file is truncated.")
        generator = torch.Generator().manual_seed(index)
        affect = torch.rand(3, 2, generator=generator) - 0.5
        noise = torch.randn(3, 3, 8, 8, generator=generator)
        level = 128 + 100 * affect[:, 0].view(1, 3, 1, 1)
        clip = (level + 40 * (1 + affect[:, 1].view(1, 3, 1, 1)) * noise).clamp(0, 255).to(torch.uint8)
        sample = AffectDataSample.from_clip(
            affect, video=f"v{index}", frame_inds=[0, 1, 2], num_frames=3, fps=25, subject=str(index)
        )
        return {"inputs": clip, "data_samples": sample}


@MODELS.register_module(name="TinyBackbone", force=True)
class TinyBackbone(nn.Module):
    """One convolution."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, width, (1, 3, 3))

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Return one feature map."""
        return (torch.relu(self.conv(clip)),)


CONFIG = """
default_scope = "hocp_mm"
model = dict(type="hocp_mm.AffectRecognizer", backbone=dict(type="hocp_mm.TinyBackbone"),
             head=dict(type="hocp_mm.AffectHead", in_channels=4))
loader = dict(batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
train_dataloader = dict(dataset=dict(type="hocp_mm.TinyClips"), **loader)
val_dataloader = dict(dataset=dict(type="hocp_mm.TinyClips", videos=3), **loader)
test_dataloader = dict(dataset=dict(type="hocp_mm.TinyClips", videos=3), **loader)
val_evaluator = test_evaluator = dict(type="hocp_mm.AffectMetric")
train_cfg, val_cfg, test_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1), dict(), dict()
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=0.01))
default_hooks = dict(checkpoint=dict(type="CheckpointHook", save_best="affect/ccc_mean", rule="greater"))
randomness = dict(seed=0)
log_level = "WARNING"
"""


@pytest.fixture(autouse=True)
def _clean_scopes() -> Iterator[None]:
    """Forget the default scopes that runners leave behind."""
    known = set(DefaultScope._instance_dict)
    yield
    for name in set(DefaultScope._instance_dict) - known:
        DefaultScope._instance_dict.pop(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[Runner]:
    """Runners that were about to train."""
    caught: list[Runner] = []
    monkeypatch.setattr(Runner, "train", lambda runner: caught.append(runner))
    return caught


def train(config: Path, *options: str) -> Path:
    work_dir = config.parent / "work"
    # A name of its own for every run: mmengine keeps loggers and message hubs by config name and second.
    copy = config.with_name(f"{config.parent.name}_{next(RUN)}.py")
    copy.write_text(config.read_text())
    TRAIN.main([str(copy), "--work-dir", str(work_dir), *options])
    return work_dir


def test_train_then_test_gives_a_table_scores_and_one_csv_per_video(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = train(config)
    (best,) = work_dir.glob("best_affect_ccc_mean_epoch_*.pth")
    out = config.parent / "out"
    capsys.readouterr()
    TEST.main([str(config), str(best), "--work-dir", str(work_dir), "--out-dir", str(out)])
    printed = capsys.readouterr().out
    scores = json.loads((out / "metrics.json").read_text())
    lines = [line.split() for line in printed.splitlines()]
    (head,) = [number for number, line in enumerate(lines) if line == ["CCC", "PCC", "RMSE", "SAGR"]]
    table = lines[head : head + 4]
    assert [row[0] for row in table[1:4]] == ["valence", "arousal", "mean"]
    assert table[3][1] == f"{scores['affect/ccc_mean']:.3f}"
    known = {
        f"affect/{name}_{value}" for name in ("ccc", "pcc", "rmse", "sagr") for value in ("valence", "arousal", "mean")
    }
    assert known <= scores.keys()
    assert all(isinstance(value, float) for value in scores.values())
    # Three subjects are too few for an interval; the constant and the moving average stand beside every score.
    assert scores.keys() - known == {f"{key}_{name}" for key in known for name in ("constant", "moving_average")}
    assert "no interval: 3 subjects are too few, 8 are needed" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "groups",
        "metrics.json",
        "per_video.csv",
        "v0.csv",
        "v1.csv",
        "v2.csv",
    ]
    TEST.main([str(config), str(best), "--work-dir", str(work_dir), "--out-dir", str(out)])  # its own are replaced
    (out / "v1.csv").write_text("frame,valence,arousal\n0,1,1\n")
    with pytest.raises(HOCPError, match=r"out_dir must hold no tables but those of a test, got .*v1\.csv"):
        TEST.main([str(config), str(best), "--work-dir", str(work_dir), "--out-dir", str(out)])


def test_intervals_can_be_left_out_of_a_test(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work_dir, out = train(config), config.parent / "out"
    words = [str(config), str(work_dir / "epoch_2.pth"), "--work-dir", str(work_dir), "--out-dir", str(out)]
    capsys.readouterr()
    TEST.main([*words, "--cfg-options", "test_evaluator.resamples=0"])
    assert "intervals of 95 %" not in capsys.readouterr().out
    assert len(json.loads((out / "metrics.json").read_text())) == 12
    assert not (out / "groups").exists()


def test_people_have_intervals_in_a_test(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work_dir = train(config)
    capsys.readouterr()
    test = [str(config), str(work_dir / "epoch_2.pth"), "--work-dir", str(work_dir)]
    TEST.main([*test, "--cfg-options", "test_dataloader.dataset.videos=12", "test_evaluator.resamples=200"])
    scores = json.loads((work_dir / "metrics.json").read_text())
    assert scores["affect/rmse_mean_low"] < scores["affect/rmse_mean"] < scores["affect/rmse_mean_high"]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("RMSE mean"))
    assert f"{scores['affect/rmse_mean_low']:.3f} to {scores['affect/rmse_mean_high']:.3f}" in row


@pytest.mark.parametrize("text", ["{}", "[1]", "mine", '{"a/b": "c"}', '{"loss": 0.5}'])
@pytest.mark.parametrize("option", ["--work-dir", "--out-dir"])
def test_scores_of_somebody_else_are_not_replaced_by_those_of_a_test(config: Path, text: str, option: str) -> None:
    file = config.parent / "mine/metrics.json"
    file.parent.mkdir()
    file.write_text(text)
    (config.parent / "x.pth").touch()
    with pytest.raises(HOCPError, match=rf"{option}: .*metrics\.json was not written by an earlier call"):
        TEST.main([str(config), str(config.parent / "x.pth"), option, str(file.parent)])
    assert file.read_text() == text


def test_resume_goes_on_where_training_stopped(config: Path) -> None:
    work_dir = train(config, "--cfg-options", "train_cfg.max_epochs=1")
    assert not (work_dir / "epoch_2.pth").exists()
    train(config, "--resume")
    resumed = torch.load(work_dir / "epoch_2.pth", weights_only=False)["meta"]
    assert (resumed["epoch"], resumed["iter"]) == (2, 4)


def test_a_checkpoint_is_read_once_whatever_begins_with_it(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = ["--cfg-options", "train_cfg.max_epochs=1"], "epoch_1.pth"
    work_dir = train(config, *first)
    whole = read_checkpoint(work_dir / last)
    save_file(unwrap_state_dict(whole), work_dir / "weights.safetensors")
    read = count_readings(monkeypatch)
    TEST.main([str(config), str(work_dir / last), "--work-dir", str(config.parent / "scores")])
    assert read == [last]
    read.clear()
    train(config, *first, f"load_from={work_dir / 'weights.safetensors'}")
    assert read == ["weights.safetensors"]
    read.clear()
    train(config, f"--resume={work_dir / last}", "--cfg-options", "train_cfg.max_epochs=2")
    assert read == [last]
    read.clear()
    train(config, "--resume", "--cfg-options", "train_cfg.max_epochs=3")
    assert read == ["epoch_2.pth"]


def test_nothing_to_resume_from_is_a_fresh_start(config: Path, runners: list[Runner]) -> None:
    train(config, "--resume")
    # TransductionHook asks for this flag, and would leave random weights to a run that only looks resumed.
    assert runners[0]._resume is False


def test_a_resumed_run_needs_no_source_for_transduction(config: Path, runners: list[Runner]) -> None:
    hook = "custom_hooks.0.source=gone.pth"
    config.write_text(CONFIG + "custom_hooks = [dict(type='hocp_mm.TransductionHook', source='timm')]\n")
    with pytest.raises(MissingDataError, match=r"gone\.pth"):
        train(config, "--cfg-options", hook)
    model = MODELS.build({"type": "hocp_mm.AffectRecognizer", **PARTS})
    meta, hub = {"epoch": 1, "iter": 2}, {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
    checkpoint = {"state_dict": model.state_dict(), "meta": meta, "message_hub": hub}
    torch.save(checkpoint, config.parent / "epoch_1.pth")
    train(config, "--resume", str(config.parent / "epoch_1.pth"), "--cfg-options", hook)
    assert runners[0]._resume is True


PARTS = {"backbone": {"type": "hocp_mm.TinyBackbone"}, "head": {"type": "hocp_mm.AffectHead", "in_channels": 4}}


def test_options_reach_the_runner(config: Path, runners: list[Runner]) -> None:
    train(config, "--seed", "7", "--no-validate", "--cfg-options", "optim_wrapper.optimizer.lr=0.5")
    runner = runners[0]
    assert runner.seed == 7
    assert runner.cfg.val_dataloader is None
    assert "save_best" not in runner.cfg.default_hooks.checkpoint
    assert runner.cfg.optim_wrapper.optimizer.lr == 0.5


@pytest.mark.parametrize("tool", ["train", "test"])
def test_flip_of_the_predictions_is_one_option_and_is_recorded(
    tool: str, config: Path, runners: list[Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    option = ["--cfg-options", "model.test_cfg.flip=True"]
    if tool == "train":
        train(config, *option)
    else:
        weights = config.parent / "weights.pth"
        torch.save({"state_dict": MODELS.build({"type": "hocp_mm.AffectRecognizer", **PARTS}).state_dict()}, weights)
        monkeypatch.setattr(Runner, "test", lambda runner: runners.append(runner) or {})
        monkeypatch.setattr(TEST, "report", lambda *_: None)
        TEST.main([str(config), str(weights), "--work-dir", str(config.parent / "work"), *option])
    assert runners[0].model.flip is True
    assert read_recorded_config(runners[0].cfg.pretty_text, "checkpoint").model.test_cfg.flip is True


def test_static_checkpoint_becomes_the_source_of_the_hook(config: Path, runners: list[Runner]) -> None:
    config.write_text(CONFIG + "custom_hooks = [dict(type='hocp_mm.TransductionHook', source='timm')]\n")
    weights = config.parent / "static.pth"
    torch.save({}, weights)
    train(config, "--static-checkpoint", str(weights))
    hook_class = HOOKS.get("TransductionHook")
    assert hook_class is not None
    (hook,) = [hook for hook in runners[0].hooks if isinstance(hook, hook_class)]
    assert hook.source == str(weights)


def test_mixed_precision_trains_on_this_machine(config: Path) -> None:
    work_dir = train(config, "--amp", "--cfg-options", "train_cfg.max_epochs=1")
    assert (work_dir / "epoch_1.pth").is_file()


def test_all_datasets_are_built_before_anything_else(config: Path) -> None:
    for split in ("train", "val", "test"):
        with pytest.raises(MissingDataError, match="folder 'nowhere' does not exist"):
            train(config, "--cfg-options", f"{split}_dataloader.dataset.fault=missing")
    assert not (config.parent / "work").exists()


def test_a_data_set_that_two_loaders_share_is_built_once(config: Path, runners: list[Runner]) -> None:
    train(config)
    loaders = runners[0]._val_dataloader, runners[0]._test_dataloader
    assert loaders[0]["dataset"] is loaders[1]["dataset"]  # type: ignore[index]


def test_a_fault_in_a_worker_is_told_without_its_traceback(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["train_dataloader.num_workers=1", "train_dataloader.dataset.fault=broken"]
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: train(config, "--cfg-options", *options))
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: video 0.avi: the file is truncated."


def test_a_checkpoint_of_another_architecture_is_refused_with_its_keys(config: Path) -> None:
    parts = PARTS | {"head": {"type": "hocp_mm.AffectHead", "in_channels": 4, "hidden_channels": 6}}
    foreign = config.parent / "foreign.pth"
    torch.save({"state_dict": MODELS.build({"type": "hocp_mm.AffectRecognizer", **parts}).state_dict()}, foreign)
    text = (
        r"foreign\.pth: the weights belong to another architecture than the config "
        r"\(2 unexpected: head\.hidden\.weight, head\.hidden\.bias; "
        r"1 of another shape: head\.regress\.weight \(2, 6\) instead of \(2, 4\)\)"
    )
    with pytest.raises(CheckpointError, match=text):
        TEST.main([str(config), str(foreign), "--work-dir", str(config.parent / "work")])
    with pytest.raises(CheckpointError, match=text):
        train(config, "--cfg-options", f"load_from={foreign}")


REFUSALS: dict[str, tuple[list[str], type[Exception], str]] = {
    "resume from nothing": (["--resume", "gone.pth"], MissingDataError, r"--resume: no such file: gone\.pth"),
    "load from nothing": (["--cfg-options", "load_from=gone.pth"], MissingDataError, "load_from: no such file"),
    "a static stage that is not there": (
        ["--static-checkpoint", "gone.pth"],
        MissingDataError,
        "--static-checkpoint: no",
    ),
    "a static stage for a config without hook": (
        ["--static-checkpoint", __file__],
        HOCPError,
        "must have a hocp_mm.Tr",
    ),
    "scaling without a base": (["--auto-scale-lr"], HOCPError, r"auto_scale_lr=dict\(base_batch_size"),
    "mixed precision in a special wrapper": (
        ["--amp", "--cfg-options", "optim_wrapper.type=ApexOptimWrapper"],
        HOCPError,
        "--amp: optim_wrapper must be of type OptimWrapper, got ApexOptimWrapper",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_options_that_cannot_work_are_refused(case: str, config: Path, runners: list[Runner]) -> None:
    options, kind, text = REFUSALS[case]
    with pytest.raises(kind, match=text):
        train(config, *options)
    assert runners == []


def test_test_refuses_what_it_cannot_do(config: Path) -> None:
    with pytest.raises(MissingDataError, match=r"config: no such file: gone\.py"):
        TEST.main(["gone.py", "gone.pth"])
    with pytest.raises(MissingDataError, match=r"CHECKPOINT: no such file: gone\.pth"):
        TEST.main([str(config), "gone.pth"])
    with pytest.raises(HOCPError, match=r"must end in \.pkl or \.pickle, got x\.csv"):
        TEST.main([str(config), "gone.pth", "--dump", "x.csv"])
    with pytest.raises(HOCPError, match=r"--out-dir: .* must have a hocp_mm\.AffectMetric"):
        TEST.main([str(config), "gone.pth", "--out-dir", "x", "--cfg-options", "test_evaluator.type=DumpResults"])


@pytest.mark.parametrize("tool", [TRAIN, TEST])
def test_help_names_every_option(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["--help"])
    assert ended.value.code == 0
    assert "--cfg-options" in capsys.readouterr().out


def test_training_without_sewa_ends_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(ROOT / "configs" / "hocp_sewa.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr + result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "data/SEWAv02" in line
    assert list(tmp_path.iterdir()) == []


def _fail(*errors: BaseException) -> Callable[[], None]:
    """Return a function that raises the first error out of the second, and so on."""

    def body() -> None:
        try:
            if len(errors) > 1:
                _fail(*errors[1:])()
        except Exception as inner:
            raise errors[0] from inner
        raise errors[0]

    return body


ENDINGS: dict[str, tuple[Callable[[], object], int, str]] = {
    "success": (lambda: 5, 0, ""),
    "a user's error": (_fail(DataError("a.csv: wrong.")), 2, "error: a.csv: wrong.\n"),
    "a user's error inside another": (
        _fail(RuntimeError("class X"), DataError("a.csv: wrong.")),
        2,
        "error: a.csv: wrong.\n",
    ),
    "the innermost of two": (_fail(HOCPError("outer"), KeyError("k"), DataError("inner")), 2, "error: inner\n"),
    "Ctrl-C": (_fail(KeyboardInterrupt()), 130, ""),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_run_turns_user_errors_into_one_line(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOCP_TRACEBACK", raising=False)
    body, code, text = ENDINGS[case]
    with pytest.raises(SystemExit) as ended:
        cli.run(body)
    assert ended.value.code == code
    assert capsys.readouterr().err == text


def test_run_lets_faults_of_the_program_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)
    monkeypatch.setenv("HOCP_TRACEBACK", "1")
    with pytest.raises(DataError):
        cli.run(_fail(DataError("a.csv: wrong.")))
