import copy

import pytest
import timm
import torch

from hocp_mm.engine import TransductionHook
from hocp_mm.errors import CheckpointError, MissingDataError
from hocp_mm.models import TimmHOCPBackbone
from tests.laws import assert_close
from tests.tiny_runs import TinyRecognizer, make_runner


@pytest.fixture
def static_checkpoint(tmp_path):
    """A checkpoint of a trained static stage, as the Runner writes it."""
    torch.manual_seed(1)
    static = TinyRecognizer(temporal=False)
    make_runner(static, tmp_path / "static", [], epochs=1, name="static").train()
    return tmp_path / "static" / "epoch_1.pth", static


def test_a_static_checkpoint_fills_the_video_network_before_training(tmp_path, static_checkpoint):
    path, static = static_checkpoint
    hook = TransductionHook(str(path))
    video = TinyRecognizer()
    runner = make_runner(video, tmp_path / "video", [hook], epochs=1)
    seen = {}

    class Spy(TransductionHook):
        def __init__(self) -> None: ...

        def before_run(self, runner) -> None: ...

        def before_train(self, runner) -> None:
            seen.update(copy.deepcopy(runner.model.state_dict()))

    runner.register_hook(Spy(), priority="LOWEST")
    runner.train()
    assert hook.report is not None
    assert hook.report.transducted == ["backbone.2.factors.t"]
    for name, tensor in static.state_dict().items():
        assert torch.equal(seen[name], tensor), name
    clip = torch.randn(2, 3, 5, 8, 8)
    video.load_state_dict(seen)
    with torch.no_grad():
        assert_close(video.eval()(clip)[:, 2], static.eval()(clip[:, :, 2:3])[:, 0], 1e-6, "frame 2")


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


def test_a_missing_source_is_refused_when_the_hook_is_built():
    with pytest.raises(MissingDataError, match=r"'nowhere/static\.pth' .train the static stage first"):
        TransductionHook("nowhere/static.pth")


def test_another_architecture_is_refused_before_training(tmp_path):
    path = tmp_path / "other.pth"
    state = TinyRecognizer(temporal=False).state_dict()
    torch.save({"state_dict": {n: t for n, t in state.items() if n != "head.bias"}}, path)
    video = TinyRecognizer()
    before = copy.deepcopy(video.state_dict())
    with pytest.raises(CheckpointError, match=r"1 missing \(head.bias\).*other.pth"):
        make_runner(video, tmp_path / "video", [TransductionHook(str(path))], epochs=1).train()
    assert all(torch.equal(before[name], tensor) for name, tensor in video.state_dict().items())


def test_timm_files_fill_the_backbone_alone(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    model = torch.nn.Module()
    model.backbone = TimmHOCPBackbone("resnet18", rank=2)
    lines: list[str] = []
    report = TransductionHook(str(path)).load(model, lines.append)
    assert lines[0].startswith("decomposed 1/16 layer1.0.conv1: relative error 0.")
    assert len(lines) == 16
    assert report.complete
    assert len(report.decomposed) == len(report.transducted) == 16
    assert sorted(report.classifier) == ["fc.bias", "fc.weight"]


def test_unreachable_timm_weights_are_an_error_that_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    model = torch.nn.Module()
    model.backbone = TimmHOCPBackbone("resnet18", rank=2)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        CheckpointError, match=r"'resnet18' could not be fetched .no route to host.*copy the model's .safetensors"
    ):
        TransductionHook("timm").load(model)
