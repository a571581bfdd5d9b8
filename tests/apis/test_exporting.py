"""What is exported says what the network says, to programs that do not know this package."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hocp_mm.apis import AffectInferencer, exporting
from hocp_mm.apis.exporting import Calibration, Exporter
from hocp_mm.errors import CheckpointError, HOCPError, MissingDataError
from hocp_mm.system.cli import run
from tests.material.processes import ROOT
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video

pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
onnxruntime = pytest.importorskip("onnxruntime", reason="it runs what was exported")
if not hasattr(torch.compiler, "is_exporting"):
    pytest.skip("PyTorch exports from 2.7 on", allow_module_level=True)

SIZE = (32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a causal video network and of an image network, a video, and all forms of the first."""
    folder = tmp_path_factory.mktemp("exporting")
    for name, options in {
        "video": {"temporal_init": "last", "motion": {"rank": 4}},
        "image": {"temporal_kernel": 1},
        "central": {"temporal_init": "central"},
    }.items():
        cfg = tiny_config()
        cfg.model.backbone.update(options)
        network = tiny_network(cfg)
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                if ".motion." in key:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        write_checkpoint(folder / f"{name}.pth", cfg, network)
    write_video(folder / "v.mp4", noise(30))
    words = [folder / "video.pth", "--to", "all", "--out", folder / "out", "--clips", folder / "v.mp4"]
    import_module("hocp_mm.commands.export").main([*map(str, words), "--faces", "frame"])
    return folder


@pytest.fixture(scope="module")
def inferencer(folder: Path) -> AffectInferencer:
    return AffectInferencer(folder / "video.pth", device="cpu")


def crops(frames: int) -> np.ndarray:
    return np.stack(noise(frames, SIZE, seed=5))


def heard(inferencer: AffectInferencer, clip: np.ndarray) -> np.ndarray:
    return inferencer.predict_clips([clip], flip=False, both_views=False)[0]


def test_all_forms_of_a_video_network_are_there_and_the_one_that_it_has_not_is_not(folder: Path):
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *("video.onnx", "video.pt2", "video.safetensors", "video_int8.onnx", "video_stream.onnx")
    ]


@pytest.mark.parametrize("form", ["", "_stream"])
@pytest.mark.parametrize("frames", [1, 23])
def test_a_program_of_onnxruntime_and_numpy_alone_says_the_same(
    folder: Path, inferencer: AffectInferencer, tmp_path: Path, form: str, frames: int
):
    np.save(tmp_path / "crops.npy", crops(frames))
    program = ROOT / "tools/run_onnx.py"
    assert len(program.read_text().splitlines()) <= 60
    code = f"""if True:
        import sys, runpy
        sys.modules["torch"] = sys.modules["hocp_mm"] = None
        sys.argv = ["run_onnx.py", {str(folder / f"out/video{form}.onnx")!r}, "crops.npy"]
        runpy.run_path({str(program)!r}, run_name="__main__")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    header, *rows = done.stdout.splitlines()
    assert header == "frame,valence,arousal"
    said = np.array([[float(cell) for cell in row.split(",")[1:]] for row in rows])
    np.testing.assert_allclose(said, np.clip(heard(inferencer, crops(frames)), -1, 1), atol=1e-4)


def test_the_file_says_how_it_wants_to_be_fed(folder: Path):
    session = onnxruntime.InferenceSession(folder / "out/video.onnx")
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert (facts["form"], facts["network"], facts["opset"], facts["colours"]) == ("onnx", "test_resnet", 20, "RGB")
    assert [facts[key] for key in ("height", "width", "crop_margin", "clip_frames")] == [32, 32, 1.3, 8]
    assert facts["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert [one.name for one in session.get_inputs()] == ["clips"]
    batch, channels, frames, *size = session.get_inputs()[0].shape
    assert (channels, *size) == (3, *SIZE)
    assert {type(batch), type(frames)} == {str}  # any number
    stream = onnxruntime.InferenceSession(folder / "out/video_stream.onnx")
    memory = json.loads(stream.get_modelmeta().custom_metadata_map["memory"])
    shapes = {one.name: one.shape[1:] for one in stream.get_inputs() if one.name.startswith("memory")}
    assert shapes == memory
    assert [one.name for one in stream.get_outputs()] == ["affect", *(f"next_{name}" for name in memory)]


@pytest.mark.parametrize("frames", [1, 11])
def test_torch_runs_the_program_without_this_package(
    folder: Path, inferencer: AffectInferencer, tmp_path: Path, frames: int
):
    np.save(tmp_path / "crops.npy", crops(frames))
    code = f"""if True:
        import sys
        sys.modules["hocp_mm"] = None
        import numpy, torch
        told = {{"hocp_mm.json": ""}}
        program = torch.export.load({str(folder / "out/video.pt2")!r}, extra_files=told).module()
        clip = torch.from_numpy(numpy.load("crops.npy")).permute(3, 0, 1, 2)[None]
        numpy.save("said.npy", program(clip)[0][0].numpy())
        print(told["hocp_mm.json"])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["form"] == "torch-export"
    np.testing.assert_allclose(np.load(tmp_path / "said.npy"), heard(inferencer, crops(frames)), atol=1e-4)


def test_safetensors_brings_its_config_which_is_parsed_as_that_of_a_checkpoint(
    folder: Path, inferencer: AffectInferencer, tmp_path: Path
):
    again = AffectInferencer(folder / "out/video.safetensors", device="cpu")
    assert np.array_equal(heard(again, crops(9)), heard(inferencer, crops(9)))
    assert again.rule == inferencer.rule
    victim = tmp_path / "victim"
    victim.touch()
    from safetensors.torch import save_file

    cfg = f"model = dict(type='shutil.rmtree', path={str(victim)!r})"
    save_file(load_file(folder / "out/video.safetensors"), tmp_path / "bad.safetensors", {"cfg": cfg})
    with pytest.raises(CheckpointError, match="registered"):
        AffectInferencer(tmp_path / "bad.safetensors")
    assert victim.exists()


def test_a_dense_file_is_the_network_of_timm(folder: Path, tmp_path: Path):
    inferencer = AffectInferencer(folder / "image.pth", device="cpu")
    found = Exporter(inferencer).write("dense", tmp_path / "d.safetensors")
    assert found.error < 1e-4
    network: Any = timm.create_model("test_resnet", num_classes=0).eval()
    state = load_file(tmp_path / "d.safetensors")
    head = {name: state.pop(name) for name in list(state) if name.startswith("head.")}
    assert network.load_state_dict(state, strict=False).missing_keys == []
    clip = torch.from_numpy(crops(3)).permute(3, 0, 1, 2)
    inputs = inferencer.model.data_preprocessor({"inputs": [clip]})["inputs"]
    with torch.no_grad():
        features = network.forward_features(inputs[0].transpose(0, 1)).mean((2, 3))
        said = features @ head["head.regress.weight"].T + head["head.regress.bias"]
    np.testing.assert_allclose(said.numpy(), heard(inferencer, crops(3)), atol=1e-4)
    with safe_open(tmp_path / "d.safetensors", "pt") as file:
        assert json.loads(file.metadata()["network"]) == "test_resnet"


def test_eight_bits_are_smaller_and_say_nearly_the_same(folder: Path, inferencer: AffectInferencer):
    small, large = (folder / "out" / f"video{end}.onnx" for end in ("_int8", ""))
    assert small.stat().st_size < 0.6 * large.stat().st_size
    session = onnxruntime.InferenceSession(small)
    kinds = {tensor.type for tensor in session.get_inputs()}
    assert kinds == {"tensor(uint8)"}
    clip = crops(8)
    (said, *_) = session.run(None, {"clips": clip.transpose(3, 0, 1, 2)[None]})
    difference = np.abs(said[0] - heard(inferencer, clip))
    assert 0 < difference.max() < 0.5
    calibration = Calibration(inferencer, [folder / "v.mp4"], "frame")
    assert len(calibration.windows) == 7
    rows = [np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32) for _ in range(7)]
    assert calibration.verdict(rows, rows).startswith("CCC with 32 bits 1.000 and 1.000 on 7 windows")
    assert "-1.000" in calibration.verdict(rows, [-row + 2 * np.concatenate(rows).mean(0) for row in rows])


def test_a_file_that_says_something_else_is_not_kept(inferencer: AffectInferencer, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-9)
    with pytest.raises(HOCPError, match=r"within 1e-09, got a difference of .* \(torch-export, .*; nothing was kept\)"):
        Exporter(inferencer).write("torch-export", tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [7, 99])
def test_an_opset_that_cannot_be_written_is_refused(inferencer: AffectInferencer, tmp_path: Path, opset: int):
    with pytest.raises(HOCPError, match=rf"opset must be one .*, got {opset} \(it wrote \d+\)"):
        Exporter(inferencer, opset=opset).write("onnx", tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_forms_that_a_network_has_not_are_refused_with_the_reason(folder: Path, inferencer: AffectInferencer, tmp_path):
    with pytest.raises(HOCPError, match=r"dense: .* motion components"):
        Exporter(inferencer).write("dense", tmp_path / "a.safetensors")
    central = AffectInferencer(folder / "central.pth", device="cpu")
    with pytest.raises(HOCPError, match=r"onnx-stream: .* causal network .* looks \d+ frames ahead"):
        Exporter(central).write("onnx-stream", tmp_path / "a.onnx")
    with pytest.raises(HOCPError, match="onnx-int8 needs clips"):
        Exporter(central).write("onnx-int8", tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "stem"),
    [("best.pth", "best"), ("a/best.v2.pth", "best.v2"), ("best.pth.tar", "best"), (".pth", "pth"), ("best", "best")],
)
def test_files_are_called_after_the_checkpoint(file: str, stem: str):
    assert import_module("hocp_mm.commands.export")._stem(Path(file)) == stem


def test_the_command_refuses_before_the_work(folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any):
    command = import_module("hocp_mm.commands.export")
    words = [str(folder / "video.pth"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="2"):
        command.parse_args([*words, "--to", "onnx-int8"])
    assert "onnx-int8 needs --clips" in capsys.readouterr().err
    mine = tmp_path / "video.safetensors"
    mine.write_text("mine")
    with pytest.raises(
        HOCPError, match=r"video\.safetensors: is there already; name another --out, or give --overwrite"
    ):
        command.main([*words, "--to", "safetensors"])
    assert mine.read_text() == "mine"
    with pytest.raises(SystemExit) as ended:
        run(lambda: command.main([*words, "--to", "dense", "safetensors", "--overwrite"]))
    assert ended.value.code == 1  # one of two
    assert "not possible: export: dense" in capsys.readouterr().out
    assert AffectInferencer(mine).rule.size == 32
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"ONNX needs onnx, onnxscript, onnxruntime, .*hocp-mm\[export\]"):
        command.main([*words, "--to", "onnx"])
