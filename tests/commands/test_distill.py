"""The command that compresses a timm network on a folder of pictures."""

from importlib import import_module
from pathlib import Path

import cv2
import pytest
import skimage.data
import timm
import torch
from safetensors.torch import load_file

from hocp_mm.errors import CheckpointError, DataError
from hocp_mm.layers import factorize_
from hocp_mm.models import TimmHOCPBackbone

NAME = "test_resnet"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME).state_dict(), folder / "dense.pth")
    (folder / "pictures" / "more").mkdir(parents=True)
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    for number in range(12):
        photo = photos[number % 3][20 * number :, 10 * number :, ::-1]
        name = "more/p.png" if number == 11 else f"{number:02d}.png"
        cv2.imwrite(str(folder / "pictures" / name), photo)
    return folder


@pytest.fixture(autouse=True)
def _cache(monkeypatch, material):
    monkeypatch.setenv("HOCP_MM_CACHE", str(material / "cache"))


def distill(folder: Path, out: Path, *more: str, checkpoint: str = "dense.pth", images: str = "pictures") -> None:
    words = ["--timm", NAME, "--checkpoint", folder / checkpoint, "--images", folder / images, "--out", out]
    import_module("hocp_mm.commands.distill").main([*map(str, words), "--size", "64", *more])


def test_the_file_starts_a_video_network_and_holds_the_whole_image_network(material, tmp_path, capsys):
    out = tmp_path / "new" / "cp.safetensors"
    distill(material, out, "--budget", "0.3", "--steps", "2")
    said = capsys.readouterr().out
    assert "adjusting all layers to each other in 2 steps" in said
    assert "relative error of the stages' features on 3 other pictures: " in said
    assert said.endswith(f"written to {out}\n")
    state = load_file(out)
    video = TimmHOCPBackbone(NAME, checkpoint=str(out), temporal_kernel=3, out_indices=(0, 1, 2, 3, 4))
    assert video.load_report is not None
    assert video.load_report.complete
    assert len(video.load_report.decomposed) == 0  # it is in CP form
    layers = {name: video.net.get_submodule(name) for name in video.factorized}
    dense = torch.load(material / "dense.pth", weights_only=True)
    spent = sum(sum(t.numel() for k, t in state.items() if k.startswith(f"{name}.")) for name in layers)
    assert 0.2 < spent / sum(dense[f"{name}.weight"].numel() for name in layers) <= 0.3
    # With its classifier: the whole image network again.
    image = timm.create_model(NAME)
    ranks = {name: state[f"{name}.weights"].numel() for name in layers}
    factorize_(image, ranks, fit=False)
    image.load_state_dict(state)
    assert torch.equal(state["fc.weight"], dense["fc.weight"])


def test_all_layers_may_follow_one_rule(material, tmp_path):
    distill(material, tmp_path / "cp.safetensors", "--rank", "5", "--most", "8")
    state = load_file(tmp_path / "cp.safetensors")
    assert {t.numel() for key, t in state.items() if key.endswith(".weights")} == {5}


def test_what_cannot_be_compressed_is_refused_and_nothing_is_written(material, tmp_path):
    out = tmp_path / "cp.safetensors"
    distill(material, out, "--rank", "5")
    second = tmp_path / "second.safetensors"
    with pytest.raises(CheckpointError, match=r"weights of a whole dense 'test_resnet'.*cp\.safetensors"):
        distill(tmp_path, second, checkpoint="cp.safetensors", images=str(material / "pictures"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "p.png").write_bytes((material / "pictures" / "00.png").read_bytes())
    with pytest.raises(DataError, match=r"one must hold 2 pictures, one of them to judge by, got 1"):
        distill(material, second, images=str(tmp_path / "one"))
    assert not second.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "cp.pth"], "--out: must end in .safetensors, got cp.pth"),
        (["--out", "cp.safetensors", "--budget", "0"], "--budget: must be above 0 and at most 1, got 0"),
        (["--out", "cp.safetensors", "--steps", "-1"], "--steps: must be 0 or more, got -1"),
        (["--out", "cp.safetensors", "--budget", "1", "--rank", "x1"], "--rank: not allowed with argument --budget"),
    ],
)
def test_wrong_words_are_refused_at_once(more, said, capsys):
    with pytest.raises(SystemExit):
        import_module("hocp_mm.commands.distill").parse_args(["--timm", NAME, "--images", "pictures", *more])
    assert said in capsys.readouterr().err
