"""Laws of runs that end at any moment: what was saved is whole, a resumed run is the uninterrupted one, bit for bit.

A run ends here by an exception that nothing catches, at chosen moments; tests/reliability kills processes.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from hocp_mm.checkpoints import read_checkpoint
from hocp_mm.errors import CheckpointError, DivergedError, HOCPError
from hocp_mm.registry import DATASETS, HOOKS, MODELS
from hocp_mm.structures import AffectDataSample
from tests.commands.test_train_test import TRAIN

RUN = itertools.count()


@DATASETS.register_module(name="RandomClips", force=True)
class RandomClips(torch.utils.data.Dataset[dict[str, Any]]):
    """Clips that are another thing at each draw, by all three generators; ``still`` for validation."""

    def __init__(self, still: bool = False) -> None:
        self.still = still

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        affect = torch.rand(3, 2, generator=torch.Generator().manual_seed(index)) - 0.5
        shift, noise = torch.tensor(1.0), torch.zeros(3, 3, 8, 8)
        if not self.still:
            shift = random.random() + np.random.uniform() + torch.rand(())  # noqa: NPY002 - what transforms draw from
            noise = torch.rand(3, 3, 8, 8)
        clip = (60 * shift + 100 * affect[:, 0].view(1, 3, 1, 1) + 20 * noise).clamp(0, 255)
        sample = AffectDataSample.from_clip(affect, video=f"v{index}", frame_inds=[0, 1, 2], num_frames=3, fps=25)
        return {"inputs": clip.to(torch.uint8), "data_samples": sample}


@MODELS.register_module(name="RandomBackbone", force=True)
class RandomBackbone(nn.Module):
    """A convolution, a norm with statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 4, (1, 3, 3)), nn.BatchNorm3d(4)

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        return (nn.functional.dropout(self.norm(self.conv(clip)).relu(), 0.2, self.training),)


class Killed(BaseException):
    """What nothing catches."""


@HOOKS.register_module(name="KillHook", force=True)
class KillHook(Hook):
    """End the run at a moment: method of a hook, and which call of it."""

    priority = "LOWEST"
    moment: tuple[str, int] | None = None
    what: Callable[[], Any] | None = None

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def _at(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if KillHook.moment == (name, self.calls[name]):
            KillHook.moment = None
            if KillHook.what is not None:
                KillHook.what()
                return
            raise Killed

    def before_train(self, runner) -> None:
        self._at("before_train")

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._at("before_train_iter")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._at("after_train_iter")

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        self._at("before_save_checkpoint")

    def after_train_epoch(self, runner) -> None:
        self._at("after_train_epoch")

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._at("after_val_iter")

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._at("after_val_epoch")


CONFIG = """
default_scope = "hocp_mm"
model = dict(type="hocp_mm.AffectRecognizer", backbone=dict(type="hocp_mm.RandomBackbone"),
             head=dict(type="hocp_mm.AffectHead", in_channels=4, dropout=0.3))
loader = dict(batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True))
train_dataloader = dict(dataset=dict(type="hocp_mm.RandomClips"), **loader)
val_dataloader = dict(dataset=dict(type="hocp_mm.RandomClips", still=True), **loader)
val_evaluator = dict(type="hocp_mm.AffectMetric")
train_cfg, val_cfg = dict(type="EpochBasedTrainLoop", max_epochs=4, val_interval=1), dict()
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01))
param_scheduler = [dict(type="ReduceOnPlateauLR", monitor="affect/ccc_mean", rule="greater", patience=0, threshold=1.0)]
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", interval=1, save_best="affect/ccc_mean", rule="greater", max_keep_ckpts=2),
    guard=dict(type="hocp_mm.NonFiniteHook"))
custom_hooks = [
    dict(type="hocp_mm.StagedUnfreezeHook", stages=[dict(begin=0, train=["^head"], norm_eval=True),
                                                    dict(begin=2, train="all", lr_mult=0.5)]),
    dict(type="EMAHook"), dict(type="hocp_mm.KillHook")]
randomness = dict(seed=0)
log_level = "WARNING"
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    known = set(DefaultScope._instance_dict)
    yield
    for name in set(DefaultScope._instance_dict) - known:
        DefaultScope._instance_dict.pop(name)
    KillHook.moment = KillHook.what = None


def train(folder: Path, *options: str, resume: bool = False, config: str = CONFIG) -> None:
    # A name of its own for every run: mmengine keeps loggers and message hubs by config name and second.
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.parent.name}_{next(RUN)}.py".replace("-", "_")
    path.write_text(config)
    given = ["--resume"] if resume else []
    TRAIN.main([str(path), "--work-dir", str(folder), *given, *(("--cfg-options", *options) if options else ())])


def kill_at(folder: Path, moment: tuple[str, int], *options: str, resume: bool = False, config: str = CONFIG) -> None:
    KillHook.moment = moment
    with pytest.raises(Killed):
        train(folder, *options, resume=resume, config=config)


def weights(folder: Path, name: str = "epoch_4.pth") -> dict[str, Tensor]:
    return read_checkpoint(folder / name)["state_dict"]


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file() and file.suffix not in (".json", ".py"))


def assert_same_run(one: Path, other: Path) -> None:
    assert files(one) == files(other)
    for name in files(one):
        if name.endswith(".pth"):
            mine, theirs = read_checkpoint(one / name), read_checkpoint(other / name)
            for part in ("state_dict", "ema_state_dict"):
                assert mine.get(part, {}).keys() == theirs.get(part, {}).keys()
                for key, value in mine.get(part, {}).items():
                    assert torch.equal(value, theirs[part][key]), f"{name}: {part}: {key}"
            assert str(mine.get("optimizer")) == str(theirs.get("optimizer"))
            assert str(mine.get("param_schedulers")) == str(theirs.get("param_schedulers"))
            hubs = [c["message_hub"]["runtime_info"].get("best_score") for c in (mine, theirs)]
            assert hubs[0] == hubs[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


def test_two_runs_of_one_seed_are_one_run_whatever_loads_the_samples(whole: Path, tmp_path: Path):
    train(tmp_path / "run", "train_dataloader.num_workers=2", "val_dataloader.num_workers=1")
    assert_same_run(whole, tmp_path / "run")


def test_without_seeds_of_their_own_samples_would_depend_on_the_workers(whole: Path, tmp_path: Path):
    train(tmp_path / "run", "randomness.seed=1")
    assert any(not torch.equal(a, weights(tmp_path / "run")[k]) for k, a in weights(whole).items())


FAST = [
    ("before_train_iter", 1),
    ("after_train_epoch", 2),
    ("after_val_iter", 5),
    ("after_val_epoch", 4),
    ("before_save_checkpoint", 2),
    ("before_save_checkpoint", 6),
    ("before_train_iter", 8),
]
SLOW = [
    *(("after_val_iter", n) for n in (1, 8, 12)),
    *(("after_val_epoch", n) for n in (1, 2)),
    *(("before_save_checkpoint", n) for n in (1, 3, 4, 5, 7, 8)),
    *(("before_train_iter", n) for n in (4, 7, 12)),
    *(("after_train_epoch", n) for n in (1, 4)),
    ("after_train_iter", 2),
    ("before_train", 1),
]
MOMENTS = [*FAST, *(pytest.param(moment, marks=pytest.mark.slow) for moment in SLOW)]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m[0]}-{m[1]}")
def test_a_run_that_ends_anywhere_goes_on_as_if_it_had_not(moment: tuple[str, int], whole: Path, tmp_path: Path):
    kill_at(tmp_path / "run", moment)
    train(tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_a_run_that_ends_again_and_again_goes_on_all_the_same(whole: Path, tmp_path: Path):
    kill_at(tmp_path / "run", ("after_val_iter", 4))
    kill_at(tmp_path / "run", ("after_val_iter", 2), resume=True)
    kill_at(tmp_path / "run", ("before_save_checkpoint", 2), resume=True)
    kill_at(tmp_path / "run", ("after_train_epoch", 1), resume=True)
    train(tmp_path / "run", "train_dataloader.num_workers=1", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_a_finished_run_is_left_as_it_is(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "run")
    train(tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("iteration", [2, 3])
def test_sigterm_ends_a_run_in_the_middle_of_an_epoch_and_it_goes_on_there(iteration: int, whole: Path, tmp_path: Path):
    KillHook.moment, KillHook.what = ("before_train_iter", iteration), lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run")
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    name = (tmp_path / "run" / "last_checkpoint").read_text()
    assert read_checkpoint(name)["meta"]["iter"] == iteration
    train(tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_sigterm_in_a_validation_ends_the_run_at_once(whole: Path, tmp_path: Path):
    KillHook.moment, KillHook.what = ("after_val_iter", 4), lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run")
    assert ended.value.code == 143
    assert not (tmp_path / "run" / "interrupted.pth").exists()
    train(tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_accumulated_gradients_are_part_of_a_checkpoint(tmp_path: Path):
    options = ["optim_wrapper.accumulative_counts=2"]  # of 3 iterations an epoch
    train(tmp_path / "whole", *options)
    kill_at(tmp_path / "run", ("before_train_iter", 4), *options)
    train(tmp_path / "run", *options, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


BY_ITERATION = (
    CONFIG.replace(
        'dict(type="EpochBasedTrainLoop", max_epochs=4, val_interval=1)',
        'dict(type="IterBasedTrainLoop", max_iters=8, val_interval=3)',
    )
    .replace('"CheckpointHook",', '"CheckpointHook", by_epoch=False,')
    .replace("interval=1,", "interval=2,")
)
BY_ITERATION = BY_ITERATION.replace("dict(begin=2,", "dict(begin=4,").replace("0.5)]),", "0.5)], by_epoch=False),")
BY_ITERATION = BY_ITERATION.replace(
    "train_dataloader = dict(", "train_dataloader = dict(sampler=dict(type='InfiniteSampler'), "
).replace(
    'batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True)', "batch_size=2, num_workers=0"
)
BY_ITERATION = BY_ITERATION.replace(
    "val_dataloader = dict(", "val_dataloader = dict(sampler=dict(type='DefaultSampler'), "
)


def test_runs_that_count_iterations_go_on_as_well(tmp_path: Path):
    train(tmp_path / "whole", config=BY_ITERATION)
    for number, moment in enumerate([("before_train_iter", 4), ("after_val_iter", 2), ("before_save_checkpoint", 3)]):
        kill_at(tmp_path / f"run{number}", moment, config=BY_ITERATION)
        train(tmp_path / f"run{number}", resume=True, config=BY_ITERATION)
        assert_same_run(tmp_path / "whole", tmp_path / f"run{number}")


def test_a_copied_run_leaves_the_original_alone(tmp_path: Path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    kill_at(original, ("before_train_iter", 7))
    before = {file.name: file.read_bytes() for file in original.iterdir() if file.is_file()}
    shutil.copytree(original, copy)
    train(copy, resume=True)
    assert {file.name: file.read_bytes() for file in original.iterdir() if file.is_file()} == before
    assert len(list(copy.glob("best_*.pth"))) == 1
    assert (copy / "epoch_4.pth").is_file()


def test_a_run_that_goes_on_from_another_ones_checkpoint_leaves_it_alone(tmp_path: Path):
    original, other = tmp_path / "original", tmp_path / "other"
    kill_at(original, ("before_train_iter", 7))
    before = {file.name: file.read_bytes() for file in original.iterdir() if file.is_file()}
    path = tmp_path / "other.py"
    path.write_text(CONFIG)
    other.mkdir()
    (other / "epoch_1.pth").write_text("x")
    TRAIN.main([str(path), "--work-dir", str(other), f"--resume={original / 'epoch_2.pth'}"])
    assert {file.name: file.read_bytes() for file in original.iterdir() if file.is_file()} == before
    assert (other / "epoch_1.pth").read_text() == "x"  # of whoever wrote it
    assert len(list(other.glob("best_*.pth"))) == 1  # its own, though an earlier one of the original may be better


@pytest.mark.parametrize(
    "entry",
    [
        {"best_ckpt": "{folder}"},
        {"best_ckpt": "{folder}/precious.pth"},
        {"best_ckpt": "../precious/precious.pth"},
        {"best_ckpt": ["{folder}/precious.pth"]},
        {"best_ckpt": None},
        {"best_ckpt": "", "last_ckpt": "{folder}/precious.pth"},
        {"best_ckpt_affect/ccc_mean": "{folder}/precious.pth"},
        {"recorded_best_ckpt": "{folder}/precious.pth"},
        {"keep_ckpt_ids": ["/../../precious/precious", "x", 3]},
        {"keep_ckpt_ids": "abc"},
        {"keep_ckpt_ids": [True, False]},
        {"keep_ckpt_ids": [-1, 10**30]},
    ],
    ids=str,
)
def test_nothing_that_a_checkpoint_names_is_deleted(entry: dict[str, Any], tmp_path: Path):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "precious.pth").write_text("x")
    kill_at(tmp_path / "run", ("before_train_iter", 4))
    checkpoint = read_checkpoint(tmp_path / "run" / "epoch_1.pth")
    text = repr(entry).replace("{folder}", str(folder))
    checkpoint["message_hub"]["runtime_info"].update(eval(text))
    torch.save(checkpoint, tmp_path / "run" / "epoch_1.pth")
    with contextlib.suppress(CheckpointError):  # or refused
        train(tmp_path / "run", resume=True)
    assert (folder / "precious.pth").read_text() == "x"


def test_a_config_in_a_checkpoint_is_not_run(tmp_path: Path):
    kill_at(tmp_path / "run", ("before_train_iter", 4))
    checkpoint = read_checkpoint(tmp_path / "run" / "epoch_1.pth")
    code = f"open({str(tmp_path / 'mark')!r}, 'w')"
    checkpoint["meta"].update(config=code, cfg=code)
    torch.save(checkpoint, tmp_path / "run" / "epoch_1.pth")
    train(tmp_path / "run", resume=True)
    assert not (tmp_path / "mark").exists()
    torch.save(checkpoint, tmp_path / "stranger.pth")
    train(tmp_path / "fresh", f"load_from={tmp_path / 'stranger.pth'}")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("pointer", [None, b"", b"\xff\xfe\0", b"/nowhere/epoch_9.pth", b"x" * 10_000, b"../../x.pth"])
def test_a_damaged_pointer_never_means_to_start_anew(pointer: bytes | None, whole: Path, tmp_path: Path):
    kill_at(tmp_path / "run", ("before_train_iter", 8))
    last = tmp_path / "run" / "last_checkpoint"
    last.unlink() if pointer is None else last.write_bytes(pointer)
    train(tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("size", [0, 1000, None])
def test_a_damaged_checkpoint_is_passed_over(size: int | None, whole: Path, tmp_path: Path):
    kill_at(tmp_path / "run", ("before_train_iter", 8))
    newest = tmp_path / "run" / "epoch_2.pth"
    newest.unlink() if size is None else newest.write_bytes(newest.read_bytes()[:size])
    train(tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


def test_where_nothing_can_be_read_nothing_is_overwritten(tmp_path: Path):
    kill_at(tmp_path / "run", ("before_train_iter", 8))
    for file in (tmp_path / "run").glob("epoch_*.pth"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read"):
        train(tmp_path / "run", resume=True)
    for file in (tmp_path / "run").glob("epoch_*.pth"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"must hold the epoch_2\.pth that last_checkpoint names, got best_"):
        train(tmp_path / "run", resume=True)


def test_weights_of_another_network_are_refused_to_start_from(tmp_path: Path):
    torch.save({"state_dict": {"x": torch.ones(1)}, "meta": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="belong to another architecture"):
        train(tmp_path / "run", f"load_from={tmp_path / 'other.pth'}")
    torch.save({"meta": {"epoch": 1}}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="no weights"):
        train(tmp_path / "run", f"load_from={tmp_path / 'none.pth'}")


UNGUARDED = CONFIG.replace('    guard=dict(type="hocp_mm.NonFiniteHook"))', ")")


def test_broken_weights_are_never_saved(tmp_path: Path):
    with pytest.raises(DivergedError):
        train(tmp_path / "run", "optim_wrapper.optimizer.lr=1e30", config=UNGUARDED)
    for file in (tmp_path / "run").glob("*.pth"):
        assert all(value.isfinite().all() for value in weights(tmp_path / "run", file.name).values())


def test_a_score_that_does_not_exist_is_told(tmp_path: Path):
    with pytest.raises(HOCPError, match=r"save_best must be a score of the evaluator, got 'affect/x' \(there are "):
        train(tmp_path / "run", "default_hooks.checkpoint.save_best=affect/x")
