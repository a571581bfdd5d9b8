"""The command that tells what a network costs."""

import csv
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from hocp_mm.system.cli import run
from tests.material.processes import ROOT
from tests.material.tiny_configs import tiny_config

FILE = ROOT / "tools" / "complexity.py"
TINY = ["--timm", "test_resnet", "--frames", "2", "--size", "32"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return import_module("hocp_mm.commands.complexity")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    tiny_config(clip_len=8, size=32).dump(path)
    return path


def test_counting_a_timm_network(tool: ModuleType, capsys: pytest.CaptureFixture):
    tool.main([*TINY, "--rank", "x1.5", "--no-latency"])
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("timm 'test_resnet', rank x1.5, temporal kernel 3; one clip 3x2x32x32, float32\n")
    assert "dense 3-D twin" in out
    assert "dense 2-D on each frame" in out
    assert " ms" not in out
    assert max(len(line) for line in out.splitlines()) <= 140


def test_the_image_network_has_no_third_dimension(tool: ModuleType, capsys: pytest.CaptureFixture):
    tool.main([*TINY, "--temporal-kernel", "1", "--no-latency"])
    out = capsys.readouterr().out
    assert "dense twin" in out
    assert "-D" not in out


def test_measuring_writes_times_to_the_table_and_to_the_file(tool: ModuleType, tmp_path: Path, capsys):
    path = tmp_path / "new" / "cost.csv"
    tool.main([*TINY, "--repeats", "1", "--csv", str(path)])
    out = capsys.readouterr().out
    assert "median of 1 on " in out
    assert "whole pass, ms" in out
    assert out.splitlines()[-1] == f"written to {path}"
    assert max(len(line) for line in out.splitlines()[1:]) <= 140
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    measured = [line for line in lines if line["milliseconds"]]
    assert {line["kind"] for line in measured} == {"Conv2d", "FrameFoldedHOCPConv2d"}
    assert all(float(line[f"{who}milliseconds"]) > 0 for line in measured for who in ("", "dense_", "parent_"))


def test_a_config_is_counted_whole_on_its_own_input(tool: ModuleType, config: Path, capsys: pytest.CaptureFixture):
    # The config asks for pretrained weights: they are neither fetched nor decomposed here.
    tool.main([str(config), "--no-latency", "--markdown"])
    out = capsys.readouterr().out
    assert "AffectRecognizer; one clip 3x8x32x32, float32" in out
    assert "| head.regress | linear |" in out


def test_flags_override_the_input_of_the_config(tool: ModuleType, config: Path, capsys: pytest.CaptureFixture):
    tool.main([str(config), "--no-latency", "--frames", "3", "--size", "48"])
    assert "one clip 3x3x48x48" in capsys.readouterr().out


def test_transforms_after_the_face_decide_the_input(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    cfg = tiny_config(clip_len=4, size=64)
    cfg.test_dataloader.dataset.pipeline.insert(2, {"type": "hocp_mm.CenterCropClip", "size": 40})
    cfg.dump(tmp_path / "crop.py")
    tool.main([str(tmp_path / "crop.py"), "--no-latency"])
    assert "one clip 3x4x40x40" in capsys.readouterr().out


def test_of_a_foreign_recogniser_the_backbone_counts(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    backbone = tiny_config().model.backbone.to_dict()
    path = tmp_path / "foreign.py"
    path.write_text(f"model = dict(type='mmaction.Recognizer3D', backbone={backbone!r}, cls_head=dict(type='X'))\n")
    tool.main([str(path), "--no-latency", "--frames", "2", "--size", "32"])
    assert "TimmHOCPBackbone; one clip 3x2x32x32" in capsys.readouterr().out


MISTAKES = {
    "an unknown timm name": (["--timm", "test_resnt"], "nearest: test_resnet"),
    "a missing config": (["none.py"], "config: no such file: none.py"),
    "a config without model": (["empty.py"], "the config must have a model with a backbone"),
    "a config without pipeline": (["bare.py"], "Or give --frames and --size"),
    "an unknown rank": (["--timm", "test_resnet", "--rank", "many"], "got 'many'"),
    "rank 0": (["--timm", "test_resnet", "--rank", "0"], "got 0"),
    "an even temporal kernel": (["--timm", "test_resnet", "--temporal-kernel", "2"], "needs an odd size, got 2"),
    "a network without k x k kernels": (["--timm", "test_vit"], "'test_vit' cannot become a video network"),
    "too small a picture": (["--timm", "inception_v4", "--size", "8"], "the network cannot run on 1x3x16x8x8"),
    "a folder as csv": ([*TINY, "--csv", "."], "--csv: must be a file that can be written"),
}  # fmt: skip


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_one_line(tool: ModuleType, tmp_path: Path, monkeypatch, capsys, argv: list, message: str):
    monkeypatch.chdir(tmp_path)
    Path("empty.py").write_text("a = 1\n")
    Path("bare.py").write_text("model = dict(type='hocp_mm.AffectRecognizer', backbone=dict(type='hocp_mm.X'))\n")
    with pytest.raises(SystemExit) as caught:
        run(lambda: tool.main([*argv, "--no-latency"]))
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


WRONG = {
    "nothing": ([], "give a config file or --timm NAME"),
    "both": (["a.py", "--timm", "resnet18"], "give a config file or --timm NAME"),
    "a rank for a config": (["a.py", "--rank", "x1"], "go with --timm"),
    "no frames": ([*TINY, "--frames", "0"], "must be a whole number above 0, got '0'"),
}


@pytest.mark.parametrize(("argv", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_options_are_refused_by_the_parser(tool: ModuleType, capsys, argv: list, message: str):
    with pytest.raises(SystemExit) as caught:
        tool.parse_args(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_imports_neither_torch_nor_mmengine():
    code = f"""
import runpy, sys
sys.argv = ["complexity.py", "--help"]
try:
    runpy.run_path({str(FILE)!r}, run_name="__main__")
except SystemExit:
    assert not {{"torch", "mmengine", "timm"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=FILE.parents[1])
