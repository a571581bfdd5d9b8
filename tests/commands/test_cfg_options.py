"""Wrong values of ``--cfg-options`` end before the first iteration in one line that names what is wrong."""

import contextlib
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.runner.loops import EpochBasedTrainLoop

from hocp_mm.datasets.splits import write_split_files
from hocp_mm.registry import MODELS
from hocp_mm.system import cli
from tests.commands.test_train_test import ROOT, TRAIN
from tests.fault_injection.sewa import KEYS
from tests.material.afew_va_files import write_afew_va
from tests.material.sewa_files import write_segment

RUN = itertools.count()
SPLITS = ("train", "val", "test")
BACKBONE = {"type": "hocp_mm.TimmHOCPBackbone", "model_name": "resnet10t", "rank": 4, "pretrained": False}


class StartedError(BaseException):
    """The first iteration came."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that make ``hocp_sewa.py`` start on three clips, a small network and weights of its static stage."""
    folder = tmp_path_factory.mktemp("options")
    for number, key in enumerate(KEYS[:3]):
        write_segment(folder / "SEWA", key, 16, 16 * number)
    write_split_files(folder / "SEWA/splits", {part: [key] for part, key in zip(SPLITS, KEYS, strict=False)}, seed=0)
    static = MODELS.build(BACKBONE | {"temporal_kernel": 1})
    torch.save({f"backbone.{name}": value for name, value in static.state_dict().items()}, folder / "static.pth")
    loaders = {"num_workers": 0, "persistent_workers": False, "batch_size": 1, "dataset.data_root": folder / "SEWA"}
    return [
        *(f"{part}_dataloader.{key}={value}" for part in SPLITS for key, value in loaders.items()),
        *(f"model.backbone.{key}={BACKBONE[key]}" for key in ("model_name", "rank")),
        "train_dataloader.dataset.clips_per_video=1",
        f"custom_hooks.0.source={folder / 'static.pth'}",
        "log_level=ERROR",
    ]


@pytest.fixture
def ending(base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[object, str]]:
    """Return what a training with one more option ends with: exit code, or error, and the lines of an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOCP_TRACEBACK", raising=False)

    def start(*_: object) -> None:
        raise StartedError

    def end(*options: str, config: str = "hocp_sewa", given: list[str] = base) -> tuple[object, str]:
        argv = [str(ROOT / f"configs/{config}.py"), "--work-dir", str(tmp_path / "work"), "--cfg-options", *given]
        argv += [f"experiment_name=options_{next(RUN)}", *options]
        errors = io.StringIO()
        code: object = None
        try:
            with contextlib.redirect_stderr(errors):
                cli.run(lambda: TRAIN.main(argv))
        except SystemExit as ended:
            code = ended.code
        except (StartedError, Exception) as error:
            code = error
        lines = [line for line in errors.getvalue().splitlines() if line.startswith(("error: ", "Traceback"))]
        return code, "\n".join(lines)

    monkeypatch.setattr(EpochBasedTrainLoop, "run_iter", start)
    return end


def test_the_right_values_start(ending: Callable[..., tuple[object, str]]) -> None:
    assert isinstance(ending()[0], StartedError)


WRONG = r"""
train_cfg.max_epochs=-1 train_cfg\.max_epochs
train_cfg.max_epochs=0 train_cfg\.max_epochs
train_cfg.val_interval=0 train_cfg\.val_interval
train_cfg=None train_cfg
train_dataloader=None train_dataloader
train_dataloader.batch_size=0 batch_size
train_dataloader.batch_size=a batch_size
train_dataloader.num_workers=-1 num_workers
train_dataloader.dataset=None train_dataloader\.dataset
train_dataloader.dataset.type=hocp_mm.NoDataset registered.dataset
train_dataloader.dataset.type=5 dataset
train_dataloader.dataset.split=training training
train_dataloader.dataset.labels=Q labels
train_dataloader.dataset.faces=eyes faces
train_dataloader.dataset.clips_per_video=0 clips_per_video
train_dataloader.dataset.clips_per_video=x SEWADataset
train_dataloader.dataset.unknown_key=1 unknown_key
train_dataloader.dataset.label_range=(1,0) label_range
train_dataloader.dataset.on_fault=maybe on_fault
train_dataloader.dataset.pipeline=None pipeline
train_dataloader.dataset.pipeline=x pipeline
train_dataloader.dataset.pipeline.9.size=3 Index
train_dataloader.dataset.pipeline.0.type=hocp_mm.NoClip pipeline\.0.*registered.transform
train_dataloader.dataset.pipeline.0.clip_len=0 clip_len
train_dataloader.dataset.pipeline.0.clip_len=x pipeline\.0
train_dataloader.dataset.pipeline.0.mode=best mode
train_dataloader.dataset.pipeline.1.size=0 size
train_dataloader.dataset.pipeline.1.margin=-1 margin
train_dataloader.dataset.pipeline.2.scale=5 pipeline\.2
train_dataloader.dataset.pipeline.3.p=2 p.must
train_dataloader.dataset.pipeline.4.brightness=x pipeline\.4
val_dataloader.dataset.windows=None windows
val_dataloader.dataset.windows.stride=0 stride
val_dataloader.dataset.windows.stride=99 stride
val_evaluator=None val_evaluator
model=5 model
model.backbone=None model\.backbone
model.backbone.rank.x=5 config
optim_wrapper=None optim_wrapper
optim_wrapper.optimizer.type=Adamm optimizer
optim_wrapper.optimizer.lr=-1 lr
optim_wrapper.optimizer.lr=nan lr
optim_wrapper.optimizer.lr=x lr
optim_wrapper.clip_grad.max_norm=-1 max_norm
param_scheduler.1.T_max=0 T_max
custom_hooks=x custom_hooks
custom_hooks.0.source=5 source
custom_hooks.1.by_epoch=maybe by_epoch
custom_hooks.1.stages.0.train=['('] stages\.0\.train
default_hooks.checkpoint.interval=0 interval
default_hooks.checkpoint.max_keep_ckpts=x max_keep_ckpts
default_hooks.logger.interval=-1 interval
default_scope=nonsense default_scope
randomness=5 randomness
randomness.seed=-1 seed
randomness.seed=99999999999 seed
env_cfg=5 env_cfg
log_level=LOUD log_level
load_from=nowhere.pth load_from
load_from=5 load_from
resume=maybe resume
auto_scale_lr=5 auto_scale_lr
fold=x fold
nonsense KEY=VALUE
model.backbone.rank=0 rank
custom_hooks.1.stages.0.train=[nothing] pattern
"""

BUILT = r"""
model.backbone.model_name=resnet1 resnet18
model.backbone.temporal_kernel=2 odd
param_scheduler.0.start_factor=-1 LinearLR
custom_hooks.0.source=nowhere.pth source
train_cfg.max_epoch=3 max_epoch
train_cfg.type=EpochLoop registered.loop
train_dataloader.persistent_workers=True persistent_workers
train_dataloader.colour=red colour
train_dataloader.sampler.type=NoSampler sampler
train_dataloader.sampler.shufle=True shufle
val_evaluator=x evaluator
val_evaluator.type=NoMetric val_evaluator.*registered.metric
val_evaluator.colour=1 colour
model.type=hocp_mm.NoModel registered.model
model.colour=1 colour
model.backbone.type=NoBackbone model\.backbone.*registered.model
model.backbone.model_name=vit_tiny_patch16_224 convolution
model.backbone.rank=-3 rank
model.backbone.rank=y rank
model.backbone.temporal_kernel=0 size
model.backbone.temporal_kernel=x temporal_kernel
model.backbone.temporal_init=middle central
model.neck.type=hocp_mm.NoNeck model\.neck
model.backbone.motion.rank=0 rank
model.backbone.motion.rectifier=square rectifier
model.backbone.motion.layers=nothing motion
model.backbone.motion.size=3 motion
model.head.type=hocp_mm.NoHead model\.head
model.head.dropout=2 dropout
model.head.dropout=x model\.head
model.head.in_channels=-1 model\.head
model.head.num_expressions=-1 model\.head
model.head.loss.type=NoLoss model\.head\.loss
model.data_preprocessor.type=No data_preprocessor
optim_wrapper.type=NoWrapper optim_wrapper
optim_wrapper.optimizer.momentum=0.9 momentum
optim_wrapper.optimizer.betas=2 AdamW
optim_wrapper.paramwise_cfg=5 paramwise_cfg
param_scheduler=x param_scheduler
param_scheduler.0.type=NoLR param_scheduler\.0
param_scheduler.0.end=0 param_scheduler\.0
param_scheduler.1.colour=2 colour
custom_hooks.0.type=hocp_mm.NoHook custom_hooks\.0
custom_hooks.1.stages=x stages
custom_hooks.1.stages.0.begin=3 begin
custom_hooks.1.stages.1.begin=x begin
custom_hooks.1.stages.0.train=5 train
custom_hooks.1.stages.0.lr_mult=-1 lr_mult
custom_hooks.1.stages.0.colour=1 colour
default_hooks.checkpoint.type=NoHook default_hooks\.checkpoint
default_hooks.checkpoint.rule=best rule
randomness.colour=x colour
env_cfg.mp_cfg.mp_start_method=knife knife
log_processor.type=No log_processor
visualizer.type=No visualizer
visualizer.vis_backends=x vis_backends
runner_type=NoRunner runner_type
"""


def cases(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def check(code: object, line: str, text: str, tmp_path: Path) -> None:
    assert code == 2, code
    assert "\n" not in line
    assert len(line) < 620
    with pytest.raises(ValueError, match=text):
        raise ValueError(line)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(("option", "text"), cases(WRONG), ids=lambda word: word)
def test_a_wrong_value_ends_in_one_line(
    option: str, text: str, ending: Callable[..., tuple[object, str]], tmp_path: Path
) -> None:
    check(*ending(option), text, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("option", "text"), cases(BUILT), ids=lambda word: word)
def test_a_wrong_value_that_only_building_tells_ends_in_one_line(
    option: str, text: str, ending: Callable[..., tuple[object, str]], tmp_path: Path
) -> None:
    check(*ending(option), text, tmp_path)


def test_a_value_of_any_length_ends_in_a_short_line(ending: Callable[..., tuple[object, str]], tmp_path: Path) -> None:
    long = "x" * 20_000
    for key in ("train_cfg.max_epochs", "train_dataloader.dataset.labels", "train_dataloader.dataset.type", "fold"):
        code, line = ending(f"{key}={long}")
        check(code, line, "x…x", tmp_path)
        assert line.count("x") < 320


@pytest.mark.parametrize(
    "option", ["fold=9", "train_dataloader.dataset.fold=-1", "train_dataloader.dataset.pipeline=5"]
)
def test_wrong_values_of_another_recipe(option: str, ending: Callable[..., tuple[object, str]], tmp_path: Path) -> None:
    root = write_afew_va(tmp_path / "AFEW-VA")
    given = [f"{part}_dataloader.dataset.data_root={root}" for part in SPLITS]
    code, line = ending(option, config="hocp_afew_va", given=given)
    check(code, line, "fold|pipeline", tmp_path)


def test_a_network_that_does_not_fit_its_head_is_told_in_the_first_iteration(
    ending: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    check(*ending("model.head.in_channels=7"), "set in_channels to the width", tmp_path)
