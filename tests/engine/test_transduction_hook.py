"""The start of a video network from an image network, where it really runs: in a Runner, and in two processes."""

import copy
import os
import subprocess
import sys

import pytest
import timm
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hocp_mm.checkpoints import DecompositionCache, LoadReport
from hocp_mm.engine import TransductionHook
from hocp_mm.engine.calibration_pictures import training_pictures
from hocp_mm.engine.hooks import transduction_hook
from hocp_mm.errors import CheckpointError, MissingDataError, UnknownModelError
from hocp_mm.layers import FrameAxis, factorize_, transduct_
from hocp_mm.layers.component_cuts import keep_components_
from hocp_mm.models import TimmHOCPBackbone
from hocp_mm.registry import MODELS
from tests.laws import assert_close
from tests.material.processes import ROOT
from tests.material.tiny_runs import TinyRecognizer, make_runner


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def static_checkpoint(tmp_path):
    """A checkpoint of a trained static stage, as the Runner writes it."""
    torch.manual_seed(1)
    static = TinyRecognizer(temporal=False)
    make_runner(static, tmp_path / "static", [], epochs=1, name="static").train()
    return tmp_path / "static" / "epoch_1.pth", static


def start(hook: TransductionHook, model: nn.Module, work_dir) -> dict[str, torch.Tensor]:
    """Train for one epoch; returns the weights that training started from."""
    seen: dict[str, torch.Tensor] = {}

    class Spy(TransductionHook):
        def __init__(self) -> None: ...

        def before_run(self, runner) -> None: ...

        def before_train(self, runner) -> None:
            seen.update(copy.deepcopy(runner.model.state_dict()))

    runner = make_runner(model, work_dir, [hook], epochs=1)
    runner.register_hook(Spy(), priority="LOWEST")
    runner.train()
    return seen


def test_a_static_checkpoint_fills_the_video_network_before_training(tmp_path, static_checkpoint):
    path, static = static_checkpoint
    hook, video = TransductionHook(str(path)), TinyRecognizer()
    seen = start(hook, video, tmp_path / "video")
    assert hook.report is not None
    assert hook.report.transducted == ["backbone.2.factors.t"]
    for name, tensor in static.state_dict().items():
        assert torch.equal(seen[name], tensor), name
    clip = torch.randn(2, 3, 5, 8, 8)
    video.load_state_dict(seen)
    with torch.no_grad():
        assert_close(video.eval()(clip)[:, 2], static.eval()(clip[:, :, 2:3])[:, 0], 1e-6, "frame 2")


def test_what_the_runner_initialises_later_does_not_undo_it(tmp_path, static_checkpoint):
    class Drawing(TinyRecognizer):
        calls = 0

        def init_weights(self) -> None:
            self.calls += 1
            nn.init.normal_(self.head.weight)
            nn.init.ones_(self.backbone[1].weight)

    path, static = static_checkpoint
    video = Drawing()
    seen = start(TransductionHook(str(path)), video, tmp_path / "video")
    assert torch.equal(seen["head.weight"], static.head.weight)
    assert torch.equal(seen["backbone.1.weight"], static.backbone[1].weight)
    assert video.calls == 1
    video.init_weights()
    assert video.calls == 2


def test_layers_take_the_rank_of_a_pruned_checkpoint(tmp_path, static_checkpoint):
    path, static = static_checkpoint
    keep_components_(static, {"backbone.2": torch.arange(4)})
    torch.save({"state_dict": static.state_dict()}, path)
    video, lines = TinyRecognizer(), []
    assert TransductionHook(str(path)).load(copy.deepcopy(video), lines.append).complete
    assert lines == [f"1 layers take their rank from {path}: backbone.2 6 -> 4"]
    seen = start(TransductionHook(str(path)), video, tmp_path / "video")
    for name, tensor in static.state_dict().items():
        assert torch.equal(seen[name], tensor), name
    assert video.backbone[2].factors["t"].shape == (3, 4)
    assert not torch.equal(video.backbone[2].factors["out"], seen["backbone.2.factors.out"]), "did not train"


def test_a_checkpoint_whose_ranks_disagree_is_refused(tmp_path, static_checkpoint):
    path, static = static_checkpoint
    torch.save({**static.state_dict(), "backbone.2.weights": torch.ones(5)}, path)
    with pytest.raises(CheckpointError, match=r"ranks must fit the model, got .*epoch_1.pth .*weights 5"):
        TransductionHook(str(path)).load(TinyRecognizer())


@pytest.mark.parametrize("how", ["resume", "load_from"])
def test_a_run_that_starts_from_a_checkpoint_is_left_alone(tmp_path, static_checkpoint, how):
    path, _ = static_checkpoint
    make_runner(TinyRecognizer(), tmp_path / "video", [TransductionHook(str(path))], epochs=1).train()
    checkpoint = str(tmp_path / "video" / "epoch_1.pth")
    hook = TransductionHook(str(path))
    runner = make_runner(
        TinyRecognizer(), tmp_path / "again", [hook], epochs=2, load_from=checkpoint, resume=how == "resume"
    )
    runner.train()
    assert hook.report is None
    assert runner.epoch == 2


NO_SOURCES = {
    "a missing checkpoint": (
        "nowhere/static.pth",
        MissingDataError,
        r"a file, got 'nowhere/static\.pth' .train the static stage first",
    ),
    "a missing file without a folder": ("static.safetensors", MissingDataError, r"got 'static\.safetensors'"),
    "a path without a suffix": ("weights/resnet18", MissingDataError, "got 'weights/resnet18'"),
    "a misspelt model": ("resnet19", UnknownModelError, r"a file, got 'resnet19' .*no suffix.*nearest: .*resnet18"),
    "a model with a misspelt tag": ("resnet18.a1_in2k", UnknownModelError, r"tag of .*nearest: a1_in1k"),
}


@pytest.mark.parametrize("case", NO_SOURCES)
def test_a_source_that_cannot_be_is_refused_when_the_hook_is_built(case):
    source, kind, message = NO_SOURCES[case]
    with pytest.raises(kind, match=message):
        TransductionHook(source)


def test_another_architecture_is_refused_before_training(tmp_path):
    path = tmp_path / "other.pth"
    state = TinyRecognizer(temporal=False).state_dict()
    torch.save({"state_dict": {n: t for n, t in state.items() if n != "head.bias"}}, path)
    video = TinyRecognizer()
    before = copy.deepcopy(video.state_dict())
    with pytest.raises(CheckpointError, match=r"1 missing \(head.bias\).*other.pth"):
        make_runner(video, tmp_path / "video", [TransductionHook(str(path))], epochs=1).train()
    assert all(torch.equal(before[name], tensor) for name, tensor in video.state_dict().items())
    assert TransductionHook(str(path), allow_missing=True).load(video).missing == ["head.bias"]
    assert torch.equal(video.head.weight, state["head.weight"])


def test_a_tensor_may_keep_its_initialisation_on_purpose(tmp_path, static_checkpoint):
    path, static = static_checkpoint
    video = TinyRecognizer()
    drawn = video.head.weight.clone()
    report = TransductionHook(str(path), keep="^head").load(video)
    assert report.kept == ["head.weight", "head.bias"]
    assert torch.equal(video.head.weight, drawn)
    assert torch.equal(video.backbone[0].weight, static.backbone[0].weight)


def test_a_model_without_a_backbone_is_refused(static_checkpoint):
    with pytest.raises(CheckpointError, match="must have a backbone, got Linear"):
        TransductionHook(str(static_checkpoint[0])).load(nn.Linear(2, 2))


@pytest.fixture
def resnet(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    return path


def video_resnet() -> nn.Module:
    model = nn.Module()
    model.backbone = TimmHOCPBackbone("resnet18", rank=2)
    return model


def test_timm_files_fill_the_backbone_alone_and_a_second_start_fits_nothing(resnet, tmp_path, monkeypatch):
    lines: list[str] = []
    first, second = video_resnet(), video_resnet()
    report = TransductionHook(str(resnet)).load(first, lines.append)
    assert lines[0].startswith("decomposed 1/16 layer1.0.conv1: relative error 0.")
    assert len(lines) == 16
    assert report.complete
    assert len(report.decomposed) == len(report.transducted) == 16
    assert sorted(report.classifier) == ["fc.bias", "fc.weight"]

    def refuse(*args, **kwargs):
        raise AssertionError("fitted although the result is known")

    monkeypatch.setattr("hocp_mm.checkpoints.decomposition_cache.decompose", refuse)
    lines.clear()
    again = TransductionHook(str(resnet)).load(second, lines.append)
    assert lines == [f"16 of 16 decompositions taken from {tmp_path / 'cache' / 'decompositions'}"]
    assert again.decomposed == report.decomposed
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


@pytest.fixture
def three_layers(tmp_path):
    """A file of dense weights, and how to build the model for it."""

    def build(dense: bool = False) -> nn.Module:
        model = nn.Module()
        model.backbone, model.head = nn.Sequential(*[nn.Conv2d(8, 8, 3) for _ in range(3)]), nn.Linear(8, 2)
        if not dense:
            factorize_(model.backbone, 4, fit=False)
        return model

    path = tmp_path / "dense.pth"
    torch.save(build(dense=True).state_dict(), path)
    return path, build


def test_lines_tell_of_the_fits_that_were_not_known(three_layers, tmp_path):
    path, build = three_layers
    TransductionHook(str(path)).load(build())
    kept = sorted((tmp_path / "cache" / "decompositions").iterdir())
    kept[0].unlink()
    lines: list[str] = []
    TransductionHook(str(path)).load(build(), lines.append)
    assert len(lines) == 2
    assert lines[0].startswith("decomposed ")
    assert lines[1] == f"2 of 3 decompositions taken from {kept[0].parent}"


def test_without_the_cache_nothing_is_kept(three_layers, tmp_path):
    path, build = three_layers
    lines: list[str] = []
    assert TransductionHook(str(path), cache=False).load(build(), lines.append).complete
    assert [line[:14] for line in lines] == ["decomposed 1/3", "decomposed 2/3", "decomposed 3/3"]
    assert not (tmp_path / "cache").exists()


def test_a_backbone_that_can_load_gets_the_name_of_a_timm_model(monkeypatch):
    class Backbone(nn.Module):
        def load_image_weights(self, source, **options):
            self.source, self.options = source, options
            return LoadReport(source)

    model = nn.Module()
    model.backbone = Backbone()
    hook = TransductionHook("resnet18.a1_in1k", seed=3, allow_missing=True, keep=["^x"])
    assert hook.load(model).source == model.backbone.source == "resnet18.a1_in1k"
    cache = model.backbone.options.pop("cache")
    assert isinstance(cache, DecompositionCache)
    assert model.backbone.options == {"seed": 3, "allow_missing": True, "keep": ["^x"], "progress": None}


def test_unreachable_timm_weights_are_an_error_that_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    model = video_resnet()
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        CheckpointError, match=r"'resnet18' could not be fetched .no route to host.*copy the model's .safetensors"
    ):
        TransductionHook("timm").load(model)


class ConvModule(nn.Module):
    def __init__(self, in_: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)


def stock_backbone(in_channels: int = 3) -> nn.Module:
    """The stem and the first convolution of a ResNet as MMAction2 names them."""
    backbone, block = nn.Module(), nn.Module()
    block.conv1 = ConvModule(8, 8, 3)
    backbone.conv1, backbone.layer1 = ConvModule(in_channels, 8, 7), nn.Sequential(block)
    factorize_(backbone, 4, layers="layer1", fit=False)
    transduct_(backbone, 3, layers="layer1", frame_axis=FrameAxis())
    backbone.in_channels = in_channels
    return backbone


def timm_weights() -> dict[str, torch.Tensor]:
    """The weights of the same layers in timm's names."""
    norms = {"bn1": nn.BatchNorm2d(8), "layer1.0.bn1": nn.BatchNorm2d(8)}
    kernels = {"conv1.weight": torch.randn(8, 3, 7, 7), "layer1.0.conv1.weight": torch.randn(8, 8, 3, 3)}
    return kernels | {f"{name}.{leaf}": t for name, norm in norms.items() for leaf, t in norm.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_stock_backbone_takes_the_file_of_an_image_network(tmp_path, prefix):
    state, path = timm_weights(), tmp_path / "image.pth"
    other_head = {"head.fc.weight": torch.ones(2, 2)}
    torch.save({"state_dict": {f"{prefix}{name}": t for name, t in state.items()} | other_head}, path)
    model = nn.Module()
    model.backbone, model.cls_head = stock_backbone(), nn.Linear(2, 2)
    report = TransductionHook(str(path)).load(model)
    assert list(report.decomposed) == ["layer1.0.conv1.conv"]
    assert report.classifier == ["head.fc.weight"]
    assert torch.equal(model.backbone.conv1.conv.weight, state["conv1.weight"])


def test_a_stock_backbone_takes_a_timm_model_for_its_channels(monkeypatch):
    state = timm_weights()

    class Downloaded:
        def state_dict(self):
            return {**state, "fc.weight": torch.ones(2, 2)}

    model = nn.Module()
    model.backbone = stock_backbone(in_channels=1)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: Downloaded())
    report = TransductionHook("resnet18.a1_in1k").load(model)
    assert report.source == "timm 'resnet18.a1_in1k'"
    assert report.classifier == ["fc.weight"]
    assert_close(model.backbone.conv1.conv.weight, state["conv1.weight"].sum(1, keepdim=True), 1e-6, "grey stem")


def test_a_stock_backbone_has_no_timm_model_of_its_own():
    model = nn.Module()
    model.backbone = stock_backbone()
    with pytest.raises(CheckpointError, match=r"source='timm' must meet a backbone of timm, got Module"):
        TransductionHook("timm").load(model)


TWO_PROCESSES = """
import torch, torch.distributed as dist
from mmengine.config import Config
from hocp_mm.compat import init_distributed
from hocp_mm.engine import TransductionHook
from hocp_mm.launch import leave_distributed
from tests.material.tiny_runs import TinyRecognizer, make_runner

cfg = Config(dict(model_wrapper_cfg=dict(find_unused_parameters=True)))
init_distributed("pytorch", cfg)
rank = dist.get_rank()
torch.manual_seed(rank)

class Recognizer(TinyRecognizer):
    def forward(self, inputs, mode="tensor"):
        return super().forward(inputs * (1 + rank), mode)  # else the gradients would agree without being shared

def train(source):
    video = Recognizer()
    video.backbone[0].to(memory_format=torch.channels_last)
    hook = TransductionHook(source)
    if rank == 1:
        hook.load = None  # must not be called there
    options = dict(launcher="pytorch", cfg=cfg, env_cfg=cfg.env_cfg)
    runner = make_runner(video, {folder!r} + "/run", [hook, dict(type="EMAHook")], epochs=1, **options)
    runner.train()
    assert (hook.report is not None) == (rank == 0)
    return runner.model

try:
    train({folder!r} + "/incomplete.pth")
except Exception as error:
    assert type(error).__name__ == "CheckpointError" and "1 missing (head.bias)" in str(error), repr(error)
    open(f"refused_{{rank}}", "w").close()  # lines of two processes may mix on one pipe
model = train({folder!r} + "/pruned.pth")
assert model.find_unused_parameters
for name, tensor in model.module.state_dict().items():
    if "running" not in name:  # each process has statistics of its own
        both = [torch.zeros_like(tensor).contiguous() for _ in range(2)]
        dist.all_gather(both, tensor.contiguous())
        assert torch.equal(*both), name
assert model.module.backbone[2].rank == 4
open(f"trained_{{rank}}", "w").close()
del model
leave_distributed()
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU mmengine starts nccl itself")
def test_two_processes_refuse_and_start_together(tmp_path):
    static = TinyRecognizer(temporal=False)
    keep_components_(static, {"backbone.2": torch.arange(4)})
    state = static.state_dict()
    torch.save(state, tmp_path / "pruned.pth")
    del state["head.bias"]
    torch.save(state, tmp_path / "incomplete.pth")
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES.format(folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {file.name for file in tmp_path.glob("*ed_?")} == {"refused_0", "refused_1", "trained_0", "trained_1"}


def test_an_error_of_the_first_process_reaches_the_others(monkeypatch):
    told: list[object] = []
    monkeypatch.setattr(transduction_hook.dist, "broadcast_object_list", lambda data, src: told.extend(data))
    with pytest.raises(MemoryError, match="too large"):
        transduction_hook._raise_everywhere(MemoryError("too large"))
    (sent,) = told

    def receive(data, src):
        data[0] = sent

    monkeypatch.setattr(transduction_hook.dist, "broadcast_object_list", receive)
    with pytest.raises(RuntimeError, match="too large"):
        transduction_hook._raise_everywhere(None)


def test_resume_that_finds_no_checkpoint_is_a_fresh_start(tmp_path, static_checkpoint):
    path, _ = static_checkpoint
    hook = TransductionHook(str(path))
    make_runner(TinyRecognizer(), tmp_path / "video", [hook], epochs=1, resume=True).train()
    assert hook.report is not None
    assert hook.report.copied


def _recognizer(**head) -> nn.Module:
    torch.manual_seed(head.get("num_expressions") or 0)
    return MODELS.build(
        {
            "type": "hocp_mm.AffectRecognizer",
            "backbone": {"type": "hocp_mm.TimmHOCPBackbone", "model_name": "resnet10t", "rank": 4, "pretrained": False},
            "head": {"type": "hocp_mm.AffectHead", **head},
        }
    )


def test_the_expressions_of_a_static_stage_are_left_out_on_purpose(tmp_path):
    static, video = _recognizer(num_expressions=8), _recognizer()
    torch.save({"state_dict": static.state_dict()}, tmp_path / "static.pth")
    report = TransductionHook(str(tmp_path / "static.pth"), cache=False).load(video)
    assert report.complete
    assert report.classifier == ["head.classify.weight", "head.classify.bias"]
    assert "classifier: head.classify.weight, head.classify.bias" in str(report)
    assert torch.equal(video.head.regress.weight, static.head.regress.weight)


def test_expressions_fill_a_head_that_has_them_and_are_missed_where_a_source_has_none(tmp_path):
    static, plain, video = _recognizer(num_expressions=8), _recognizer(), _recognizer(num_expressions=8)
    nn.init.ones_(static.head.classify.weight)
    torch.save({"state_dict": static.state_dict()}, tmp_path / "static.pth")
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "plain.pth")
    assert TransductionHook(str(tmp_path / "static.pth"), cache=False).load(video).classifier == []
    assert torch.equal(video.head.classify.weight, static.head.classify.weight)
    with pytest.raises(CheckpointError, match=r"got 2 missing \(head\.classify\.weight, head\.classify\.bias\)"):
        TransductionHook(str(tmp_path / "plain.pth"), cache=False).load(video)
    five = _recognizer(num_expressions=5)
    with pytest.raises(CheckpointError, match=r"2 mismatched \(head\.classify\.weight: \(8, 512\) instead of \(5, 512"):
        TransductionHook(str(tmp_path / "static.pth"), cache=False).load(five)


class TimmRecognizer(BaseModel):
    """A timm backbone of two stages behind a preprocessor, as recipes have them."""

    def __init__(self) -> None:
        super().__init__({"type": "hocp_mm.AffectDataPreprocessor", "mean": [127.5] * 3, "std": [63.75] * 3})
        self.backbone = TimmHOCPBackbone("test_resnet", rank=4, out_indices=(1, 2))
        self.head = nn.Linear(self.backbone.out_channels[-1], 2)

    def forward(self, inputs: torch.Tensor, data_samples=None, mode: str = "tensor"):
        pred = self.head(self.backbone(inputs)[-1].mean(dim=(2, 3, 4)))
        return {"loss": (pred - 1).square().mean()} if mode == "loss" else pred


class PicturesOfTraining(Dataset):
    """Clips of noise with an edge; each access draws a random number, as augmentation does."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict:
        clip = torch.rand(3, 4, 32, 32)
        clip[:, :, : 8 + int(index)] += 0.5
        return {"inputs": (160 * clip).byte()}


def calibrated_runner(work_dir, hook: TransductionHook, model: nn.Module):
    loader = DataLoader(PicturesOfTraining(), batch_size=3, collate_fn=pseudo_collate)
    return make_runner(model, work_dir, [hook], epochs=1, train_dataloader=loader)


def test_a_budget_is_spent_by_what_the_network_computes_on_training_clips(tmp_path, monkeypatch):
    torch.save(timm.create_model("test_resnet", zero_init_last=False).state_dict(), tmp_path / "dense.pth")
    hook = TransductionHook(str(tmp_path / "dense.pth"), calibrate={"batches": 4, "pictures": 20}, budget=0.3)
    model = TimmRecognizer()
    runner = calibrated_runner(tmp_path / "run", hook, model)
    said: list[str] = []
    monkeypatch.setattr(runner.logger, "info", lambda text, *args: said.append(str(text)))
    runner.train()
    assert "measuring 6 layers on 18 pictures" in said  # it may take minutes
    report = hook.report
    assert report is not None
    assert report.complete
    assert report.judged == 6  # 12 clips in 4 batches, 2 frames of each; one batch is kept
    assert len(report.stages) == 2
    layers = [model.backbone.net.get_submodule(name) for name in model.backbone.factorized]
    spent = sum(layer.rank * (layer.in_channels + layer.out_channels + 7) for layer in layers)
    dense = sum(layer.in_channels * layer.out_channels * 9 for layer in layers)
    assert 0.2 * dense < spent <= 0.3 * dense
    assert "relative error of the stages' features on 6 other pictures" in str(report)


@pytest.mark.parametrize("how", ["load_from", "test"])
def test_a_run_takes_the_ranks_that_a_budget_chose_out_of_its_checkpoint(tmp_path, how):
    """The config knows them not; MMEngine would warn, and go on with layers that it could not fill."""
    torch.save(timm.create_model("test_resnet", zero_init_last=False).state_dict(), tmp_path / "dense.pth")
    hook = TransductionHook(str(tmp_path / "dense.pth"), calibrate={"batches": 4, "pictures": 20}, budget=0.3)
    calibrated_runner(tmp_path / "run", hook, TimmRecognizer()).train()
    file = tmp_path / "run" / "epoch_1.pth"
    again, second = TimmRecognizer(), TransductionHook(str(tmp_path / "dense.pth"), calibrate={})
    options = {"epochs": 2, "load_from": str(file), "resume": how == "resume"}
    runner = make_runner(again, tmp_path / "again", [second], **options)
    if how != "test":
        runner.build_train_loop(runner._train_loop)
    second.before_run(runner)
    runner.load_or_resume()
    assert second.report is None
    for name, tensor in torch.load(file, weights_only=False)["state_dict"].items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_clips_are_taken_as_in_training_and_no_random_number_moves():
    model = TimmRecognizer()
    loader = DataLoader(PicturesOfTraining(), batch_size=5, collate_fn=pseudo_collate)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    shown = training_pictures(loader, model, batches=2, pictures=25, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [tuple(batch.shape) for batch in shown] == [(15, 3, 32, 32)] * 2  # frames 0, 2 and 3 of each clip
    assert all(-2.1 < float(batch.min()) < float(batch.max()) < 2.1 for batch in shown)  # normalised
    again = training_pictures(loader, model, batches=2, pictures=25, seed=1)
    assert all(torch.equal(one, other) for one, other in zip(shown, again, strict=True))
    loader = DataLoader(PicturesOfTraining(), batch_size=64, collate_fn=pseudo_collate)
    assert [len(batch) for batch in training_pictures(loader, model, batches=8, pictures=1)] == [6, 6]
    loader = DataLoader(PicturesOfTraining(), batch_size=5, collate_fn=pseudo_collate)
    whole = training_pictures(loader, model, batches=99, pictures=1)
    assert [len(batch) for batch in whole] == [5, 5, 2]  # each clip once


def test_a_static_stage_needs_no_calibration(tmp_path, static_checkpoint):
    """It has been trained in CP form; its clips are not even loaded."""
    path, static = static_checkpoint
    video = TinyRecognizer()

    def refuse() -> list:
        raise AssertionError("loaded for nothing")

    report = TransductionHook(str(path), calibrate={}).load(video, pictures=refuse)
    assert report.stages == []
    assert torch.equal(video.head.weight, static.head.weight)


def test_a_stock_backbone_is_not_calibrated(three_layers, tmp_path):
    _, build = three_layers
    torch.save(build(dense=True).backbone.state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(CheckpointError, match="calibrate must meet a backbone of timm, got Sequential"):
        TransductionHook(str(tmp_path / "backbone.pth"), calibrate={}).load(build())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrate": {"batch": 3}}, "calibrate must be a dict of batches"),
        ({"calibrate": {"batches": 1}}, "calibrate must be a dict of batches"),
        ({"calibrate": {"batches": 2.5}}, "calibrate must be a dict of batches"),
        ({"calibrate": 8}, "calibrate must be a dict of batches"),
        ({"budget": 0.2}, "budget must be a part in .0, 1., and needs calibrate"),
        ({"budget": 2, "calibrate": {}}, "budget must be a part in"),
        ({"budget": True, "calibrate": {}}, "budget must be a part in"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TransductionHook("timm", **options)
