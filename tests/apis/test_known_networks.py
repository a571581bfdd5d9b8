"""A file of HSEmotion's format gives a timeline at once: the numbers of timm's own network on the same crops."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from hocp_mm.apis import AffectInferencer
from hocp_mm.datasets.affectnet.rows import EXPRESSIONS
from hocp_mm.datasets.transforms import LoadFaceClip, PackAffectInputs, SampleClip
from hocp_mm.errors import CheckpointError
from hocp_mm.structures import AffectTimeline
from hocp_mm.system.cli import run
from tests.material.affect_networks import efficientnet
from tests.material.tiny_configs import noise, write_video

BOX, FRAMES = (14, 8, 26, 22), 5


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("known") / "v.mp4", noise(FRAMES))


@torch.no_grad()
def outputs_by_hand(net: nn.Module, video: Path, size: int) -> np.ndarray:
    """Crop with the transforms of the data sets, normalise as HSEmotion does, run timm's network: ``[F, outputs]``."""
    x, y, w, h = BOX
    item: dict[str, Any] = {
        "video": "v", "filename": str(video), "num_frames": FRAMES, "fps": 25.0, "subject": "", "start": 0,
        "affect": np.zeros((FRAMES, 2), np.float32), "valid": np.ones(FRAMES, bool),
        "boxes": np.tile(np.float32([x, y, x + w, y + h]), (FRAMES, 1)), "face_found": np.ones(FRAMES, bool),
    }  # fmt: skip
    for step in (SampleClip(FRAMES, 1, mode="window"), LoadFaceClip(size, margin=1.35, smooth=5), PackAffectInputs()):
        item = step(item)
    frames = item["inputs"].movedim(1, 0).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return net((frames - mean) / std).numpy()


@pytest.fixture(scope="module")
def network(video: Path) -> Any:
    net = efficientnet("b0", 10, sees=True)
    with torch.no_grad():  # so that the bounds [-1, 1] do not hide differences
        scale = torch.from_numpy(0.8 / np.abs(outputs_by_hand(net, video, 224)).max(0))
        scale[:8] = 1  # several expressions would have the same largest score
        net.classifier.weight.mul_(scale[:, None])
        net.classifier.bias.mul_(scale)
    return net


SAVED = {
    "whole module": lambda net: net,
    "state dict": lambda net: net.state_dict(),
}


@pytest.mark.parametrize("make", SAVED.values(), ids=SAVED.keys())
def test_the_table_of_the_demo_is_that_of_timms_network(tmp_path: Path, network: Any, video: Path, make: Any, capsys):
    torch.save(make(network), tmp_path / "enet_b0_8_va_mtl.pt")
    argv = [str(video), "--checkpoint", str(tmp_path / "enet_b0_8_va_mtl.pt"), "--out", str(tmp_path / "out")]
    import_module("hocp_mm.commands.demo").main(
        [*argv, "--box", ",".join(map(str, BOX)), "--no-video", "--device", "cpu"]
    )
    printed = capsys.readouterr()
    assert "enet_b0_8_va_mtl.pt: enet_b0_8_va_mtl, by its shapes" in printed.out
    assert "Apache-2.0" in printed.out
    assert "frames per second" not in printed.out + printed.err  # a network of single frames needs no rate
    outputs = outputs_by_hand(network, video, 224)
    expected = outputs[:, 8:]
    assert np.ptp(expected, axis=0).min() > 0.02  # the network is not blind to its input
    timeline = AffectTimeline.from_csv(tmp_path / "out" / "v.csv")
    np.testing.assert_allclose(timeline.pred, expected, atol=1e-4)
    assert timeline.face_found.all()
    ours = outputs[:, [5, 4, 6, 7, 3, 2, 0, 1]].argmax(axis=1)  # neutral, happy, sad, surprise, fear, disgust, …
    assert timeline.expression.tolist() == [EXPRESSIONS[number] for number in ours]


def test_expressions_come_in_our_order(tmp_path: Path, network: Any, video: Path):
    torch.save(network, tmp_path / "any.pt")  # ten rows: no other has them
    inferencer = AffectInferencer(tmp_path / "any.pt", device="cpu")
    assert inferencer.network is not None
    assert inferencer.network.name == "enet_b0_8_va_mtl"
    clip = torch.from_numpy(np.stack(noise(1, (224, 224)))).permute(3, 0, 1, 2)
    batch = inferencer.model.data_preprocessor({"inputs": [clip], "data_samples": None})["inputs"]
    with torch.no_grad():
        (sample,) = inferencer.model(batch, mode="predict")
        logits = network(batch[:, :, 0])[0]
    # neutral, happy, sad, surprise, fear, disgust, anger, contempt
    torch.testing.assert_close(sample.pred_scores[0], logits[[5, 4, 6, 7, 3, 2, 0, 1]].softmax(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(sample.pred_affect[0], logits[8:], atol=1e-5, rtol=0)


REFUSED = {
    "expressions alone": (
        "enet_b2_8", lambda: efficientnet("b2", 8), "needs valence and arousal, got enet_b2_8, which tells expressions",
    ),
    "two of the same shapes": (
        "mine", lambda: efficientnet("b0", 8), "got what fits enet_b0_8_best_afew and enet_b0_8_best_vgaf; call the",
    ),
    "one of the two by its name": (
        "enet_b0_8_best_afew", lambda: efficientnet("b0", 8), "got enet_b0_8_best_afew, which tells expressions alone",
    ),
    "ten rows of another architecture": (
        "enet_b0_8_va_mtl", lambda: timm.create_model("mobilenetv2_050", num_classes=10),
        "records no config (meta['cfg']) and is of no known network (enet_b0_8_va_mtl, ",
    ),
    "ten rows without TensorFlow's padding": (
        "enet_b0_8_va_mtl", lambda: timm.create_model("efficientnet_b0", num_classes=10), "conv_stem of class",
    ),
    "emonet": ("emonet_8", lambda: {"emo_fc_2.3.weight": torch.ones(10, 128)}, "emonet is not taken: it is an"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_gives_no_timeline_is_refused_in_one_line(tmp_path: Path, video: Path, name, make, message, capsys):
    torch.save(make(), tmp_path / f"{name}.pt")
    argv = [str(video), "--checkpoint", str(tmp_path / f"{name}.pt"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        run(lambda: import_module("hocp_mm.commands.demo").main([*argv, "--faces", "frame", "--device", "cpu"]))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / name}.pt: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_config_that_is_given_is_not_outvoted(tmp_path: Path, network: Any):
    torch.save(network, tmp_path / "enet_b0_8_va_mtl.pt")
    (tmp_path / "own.py").write_text("model = dict(type='hocp_mm.AffectRecognizer')\n")
    with pytest.raises(CheckpointError, match="must have a data loader with LoadFaceClip"):
        AffectInferencer(tmp_path / "enet_b0_8_va_mtl.pt", tmp_path / "own.py", "cpu")
