"""The command that checks that nothing is lost when an image network becomes a video network."""

import csv
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import timm
import timm.data
import torch

from hocp_mm.analysis import verification as transduction_report
from hocp_mm.errors import HOCPError
from hocp_mm.system.cli import run
from tests.material.processes import ROOT

FILE = ROOT / "tools" / "verify_transduction.py"
TINY = ["--timm", "test_resnet", "--size", "32", "--rank", "4"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return import_module("hocp_mm.commands.verify")


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def lines_of(tool: ModuleType, capsys: pytest.CaptureFixture, *argv: str) -> list[str]:
    tool.main([*TINY, *argv])
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def line(lines: list[str], start: str) -> str:
    (found,) = [text for text in lines if text.startswith(start)]
    return found


def test_a_sound_network_passes(tool: ModuleType, capsys: pytest.CaptureFixture):
    lines = lines_of(tool, capsys)
    assert lines[0] == (
        "timm 'test_resnet', rank 4, temporal kernel 3 (central); one clip 3x4x32x32, float64; random weights"
    )
    assert line(lines, "layers").endswith("9 HO-CP, 9 with a temporal factor; 6 convolutions kept (5 1x1, 1 3x3)")
    assert line(lines, "frame-wise").endswith(": PASS")
    assert line(lines, "causality").endswith(": PASS")
    assert line(lines, "gradients").endswith("0 temporal factors and 0 parameters without: PASS")
    assert lines[-1].startswith("PASS ")


def test_every_kernel_has_its_rank_and_its_error_and_so_has_the_file(tool: ModuleType, tmp_path: Path, capsys):
    path = tmp_path / "new" / "errors.csv"
    lines = lines_of(tool, capsys, "--csv", str(path))
    assert lines[-1] == f"written to {path}"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kernels = {row["where"]: row for row in rows if row["quantity"] == "kernel error"}
    assert len(kernels) == 9
    for name, row in kernels.items():
        assert row["rank"] == "4"
        assert line(lines, f"  {name} ").split() == [name, "4", f"{float(row['value']):.4f}"]
        assert 0.1 < float(row["value"]) < 1
    assert sum(row["quantity"] == "feature error" for row in rows) == 5
    assert {row["quantity"] for row in rows} >= {"frame-wise error", "leak: future", "leak: clips", "leak: length"}


def test_at_full_rank_the_features_are_those_of_timm(tool: ModuleType, tmp_path: Path, capsys):
    path = tmp_path / "errors.csv"
    lines_of(tool, capsys, "--rank", "full", "--csv", str(path))
    with path.open(newline="") as file:
        errors = {row["quantity"]: float(row["value"]) for row in csv.DictReader(file)}
    assert errors["feature error"] < 1e-12
    assert errors["kernel error"] == 0


def test_pictures_take_the_place_of_noise(tool: ModuleType, tmp_path: Path, capsys):
    """The errors of the stages are those of a comparison written out, picture by picture."""
    import skimage.data
    from PIL import Image

    from hocp_mm.models import TimmHOCPBackbone

    (tmp_path / "pictures" / "more").mkdir(parents=True)
    shown = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    for place, picture in zip(("b.png", "a.jpg", "more/c.png"), shown, strict=True):
        Image.fromarray(picture).save(tmp_path / "pictures" / place)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    dense = timm.create_model("test_resnet", zero_init_last=False).eval()
    torch.save(dense.state_dict(), tmp_path / "weights.pth")
    options = ["--checkpoint", str(tmp_path / "weights.pth"), "--csv", str(tmp_path / "errors.csv"), "--frames", "2"]
    lines = lines_of(tool, capsys, *options, "--images", str(tmp_path / "pictures"))
    assert f"; 3 pictures of {tmp_path / 'pictures'} as 3x2x32x32, float64; " in lines[0]
    with (tmp_path / "errors.csv").open(newline="") as file:
        found = [float(row["value"]) for row in csv.DictReader(file) if row["quantity"] == "feature error"]
    change = timm.data.create_transform(**{**timm.data.resolve_model_data_config(dense), "input_size": (3, 32, 32)})
    files = [tmp_path / "pictures" / name for name in ("a.jpg", "b.png", "more/c.png")]
    pictures = torch.stack([change(Image.open(file)) for file in files]).double()
    twin = TimmHOCPBackbone("test_resnet", rank=4, checkpoint=str(tmp_path / "weights.pth"), out_indices=range(5))
    with torch.no_grad():
        ours = [stage[:, :, 0] for stage in twin.eval().double()(pictures.unsqueeze(2))]
        theirs = dense.double().forward_intermediates(pictures, intermediates_only=True)
    expected = [float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)]
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "nowhere"], "--images: must be a folder of pictures, got nowhere"),
        (["--images", "empty"], "--images: empty must hold a picture"),
        (["--images", "full", "--in-chans", "1"], "--images: pictures have 3 channels, the network takes 1"),
        (["--images", "full"], "full/a.png: "),
    ],
)
def test_a_folder_without_pictures_is_refused(tool: ModuleType, tmp_path: Path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.png").write_bytes(b"no picture")
    with pytest.raises(HOCPError, match=re.escape(message)):
        tool.main([*TINY, *argv])


def test_all_layers_are_named_on_demand(tool: ModuleType, capsys: pytest.CaptureFixture):
    tool.main(["--timm", "test_efficientnet", "--size", "32", "--rank", "4", "--verbose"])
    lines = capsys.readouterr().out.splitlines()
    assert "  HO-CP + time: blocks.0.0.conv" in lines
    assert "  dense + time: blocks.3.0.conv_dw" in lines
    assert "  kept 3x3: conv_stem" in lines


def test_weights_come_from_a_file_for_its_channels(tool: ModuleType, tmp_path: Path, capsys):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet", zero_init_last=False).state_dict(), path)
    lines = lines_of(tool, capsys, "--checkpoint", str(path), "--in-chans", "1", "--frames", "2")
    assert lines[0].endswith(f"one clip 1x2x32x32, float64; weights of {path}")
    assert lines[-1].startswith("PASS ")


def test_weights_in_cp_form_have_no_dense_network_to_compare_with(tool: ModuleType, tmp_path: Path, capsys):
    from hocp_mm.models import TimmHOCPBackbone

    torch.save(TimmHOCPBackbone("test_resnet", rank=4, temporal_kernel=1).state_dict(), tmp_path / "static.pth")
    lines = lines_of(tool, capsys, "--checkpoint", str(tmp_path / "static.pth"))
    # timm starts with branches scaled by 0, behind which there are no gradients: told, but no fault.
    assert "7 temporal factors and 0 parameters without: PASS" in line(lines, "gradients")
    assert "  net.layer1.0.conv1.factors.t (zero)" in lines
    assert "in CP form already" in line(lines, "decomposition")
    assert lines[-1].startswith("PASS ")


# The smaller networks of their families, with what other people's files of them lack or call otherwise.
DENSE_FILES = {
    "a whole network": ("test_efficientnet", lambda state: state),
    "without its classifier": ("test_efficientnet", lambda state: without(state, "classifier.")),
    "without its head": ("test_efficientnet", lambda state: without(state, "classifier.", "conv_head.", "bn2.")),
    "without its last norm": ("test_convnext", lambda state: without(state, "head.")),
    "without counters": ("test_resnet", lambda state: {k: t for k, t in state.items() if t.ndim}),
    "of a recogniser": ("test_resnet", lambda state: {f"backbone.net.{k}": t for k, t in state.items()}),
}  # fmt: skip


def without(state: dict[str, torch.Tensor], *prefixes: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


@pytest.mark.parametrize("case", DENSE_FILES)
def test_a_dense_file_is_compared_with_whatever_it_lacks_behind_the_stages(tool: ModuleType, case, tmp_path, capsys):
    name, change = DENSE_FILES[case]
    torch.save(change(timm.create_model(name).state_dict()), tmp_path / "dense.pth")
    tool.main(
        ["--timm", name, "--size", "32", "--rank", "4", "--frames", "2", "--checkpoint", str(tmp_path / "dense.pth")]
    )
    line_ = line(capsys.readouterr().out.splitlines(), "decomposition")
    assert "of the features of each stage against timm's network" in line_


def test_a_fused_file_is_compared_with_a_fused_network(tool: ModuleType, tmp_path: Path, capsys):
    net = timm.create_model("repvgg_a0")
    torch.save(timm.utils.reparameterize_model(net).state_dict(), tmp_path / "fused.pth")
    argv = ["--timm", "repvgg_a0", "--size", "32", "--rank", "4", "--frames", "1", "--reparameterize"]
    tool.main([*argv, "--checkpoint", str(tmp_path / "fused.pth")])
    assert "of the features of each stage" in line(capsys.readouterr().out.splitlines(), "decomposition")


def test_an_image_network_has_no_causality_to_check(tool: ModuleType, capsys: pytest.CaptureFixture):
    lines = lines_of(tool, capsys, "--temporal-kernel", "1")
    assert "nothing to check" in line(lines, "causality")
    assert lines[-1].startswith("PASS ")


@pytest.mark.parametrize("argv", [["--temporal-init", "last", "--temporal-kernel", "2"], ["--frames", "1"]])
def test_causal_taps_and_single_frames_pass(tool: ModuleType, capsys: pytest.CaptureFixture, argv: list[str]):
    assert lines_of(tool, capsys, *argv)[-1].startswith("PASS ")


def test_taps_that_average_frames_fail_and_say_why(tool: ModuleType, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught:
        tool.main([*TINY, "--temporal-init", "uniform"])
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 1
    assert line(lines, "frame-wise").endswith(": FAIL")
    assert "'uniform' averages frames" in "".join(lines)
    assert line(lines, "causality").endswith(": PASS")
    assert lines[-1].startswith("FAIL ")


def test_what_is_without_gradient_is_named_and_fails(tool: ModuleType, monkeypatch, capsys: pytest.CaptureFixture):
    build = transduction_report.build_twins

    def with_a_spare_parameter(*args: object, **kwargs: object):
        twins = build(*args, **kwargs)
        twins.video.spare = torch.nn.Parameter(torch.zeros(1))
        return twins

    monkeypatch.setattr(transduction_report, "build_twins", with_a_spare_parameter)
    with pytest.raises(SystemExit) as caught:
        tool.main(TINY)
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 1
    assert line(lines, "gradients").endswith("1 parameters without: FAIL")
    assert "  spare" in lines


MISTAKES = {
    "an unknown timm name": (["--timm", "test_resnt"], "nearest: test_resnet"),
    "a network without k x k kernels": (["--timm", "test_vit"], "'test_vit' cannot become a video network"),
    "a missing file": ([*TINY, "--checkpoint", "none.pth"], "none.pth"),
    "a file of another network": ([*TINY, "--checkpoint", "other.pth"], "another architecture?"),
    "an unknown rank": ([*TINY, "--rank", "many"], "got 'many'"),
    "rank 0": ([*TINY, "--rank", "0"], "got 0"),
    "an even temporal kernel": ([*TINY, "--temporal-kernel", "2"], "needs an odd size, got 2"),
    "too small a picture": (["--timm", "inception_v4", "--size", "8"], "timm's 'inception_v4' cannot run on 3x8x8"),
    "a fixed size": (["--timm", "vit_tiny_r_s16_p8_224", "--size", "64"], "cannot run on 3x64x64 (The size of tensor"),
    "a folder as csv": ([*TINY, "--csv", "."], "--csv: must be a file that can be written"),
}  # fmt: skip


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_one_line(tool: ModuleType, tmp_path: Path, monkeypatch, capsys, argv: list, message: str):
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("test_efficientnet").state_dict(), "other.pth")
    with pytest.raises(SystemExit) as caught:
        run(lambda: tool.main(argv))
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


WRONG = {
    "no network": ([], "the following arguments are required: --timm"),
    "no frames": ([*TINY, "--frames", "0"], "must be a whole number above 0, got '0'"),
    "an unknown start": ([*TINY, "--temporal-init", "first"], "invalid choice: 'first'"),
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
sys.argv = ["verify_transduction.py", "--help"]
try:
    runpy.run_path({str(FILE)!r}, run_name="__main__")
except SystemExit:
    assert not {{"torch", "mmengine", "timm"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=FILE.parents[1])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--seed", str(2**70)], "must be a whole number of 64 bits"),
        (["--frames", "100000000000"], "memory: there is not enough"),
        (["--size", "100000000"], "memory: there is not enough"),
    ],
)
def test_numbers_that_no_machine_can_hold_end_in_one_line(tool: ModuleType, capsys, words: list[str], text: str):
    with pytest.raises(SystemExit) as ended:
        run(lambda: tool.main([*TINY, *words]))
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
