"""A video network starts from a file of HSEmotion's format: backbone and head, rows in our order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction

from hocp_mm.engine import TransductionHook
from hocp_mm.errors import CheckpointError
from hocp_mm.launch import build_model
from tests.material.affect_networks import efficientnet
from tests.material.processes import ROOT
from tests.material.tiny_configs import noise

# As docs/affect_networks.md says it; a dense network, whose kernels need no fit.
OPTIONS = {
    "model.backbone.model_name": "tf_efficientnet_b0",
    "model.backbone.head_features": True,
    "model.backbone.out_indices": [],
}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def network() -> Any:
    return efficientnet("b0", 10, sees=True)


@pytest.fixture
def file(tmp_path: Path, network: Any) -> str:
    torch.save(network, tmp_path / "enet_b0_8_va_mtl.pt")
    return str(tmp_path / "enet_b0_8_va_mtl.pt")


def video_network(**options: Any) -> Any:
    cfg = Config.fromfile(ROOT / "configs" / "hocp_sewa.py")
    cfg.merge_from_dict({**OPTIONS, **options})
    return build_model(cfg)


def test_the_page_names_these_options():
    page = (ROOT / "docs" / "affect_networks.md").read_text(encoding="utf-8")
    words = [word for word in page.partition("--cfg-options")[2].split("```")[0].split() if "=" in word]
    assert {key: DictAction._parse_iterable(value) for key, _, value in (w.partition("=") for w in words)} == OPTIONS


@torch.no_grad()
def test_backbone_and_head_say_at_the_start_what_the_network_says_of_each_frame(network: Any, file: str):
    model = video_network(**{"model.head.num_expressions": 8}).eval()
    report = TransductionHook(file).load(model)
    clip = torch.from_numpy(np.stack(noise(4, (96, 96)))).permute(3, 0, 1, 2)
    batch = model.data_preprocessor({"inputs": [clip], "data_samples": None})["inputs"]
    (sample,) = model(batch, mode="predict")
    rows = network(batch[0].movedim(1, 0))
    assert rows[:, 8:].std(0).min() > 0.02
    torch.testing.assert_close(sample.pred_affect, rows[:, 8:], atol=1e-4, rtol=1e-4)
    # neutral, happy, sad, surprise, fear, disgust, anger, contempt
    scores = rows[:, [5, 4, 6, 7, 3, 2, 0, 1]].softmax(1)
    torch.testing.assert_close(sample.pred_scores, scores, atol=1e-4, rtol=0)
    assert report.complete
    assert report.classifier == []
    assert {f"head.{name}" for name, _ in model.head.named_parameters()} <= set(report.copied)
    text = str(report)
    assert "those of enet_b0_8_va_mtl by their shapes: 10 outputs of tf_efficientnet_b0" in text
    assert "head.regress has the rows valence, arousal" in text
    assert "head.classify has the rows neutral, happy, sad, surprise, fear, disgust, anger, contempt" in text


@pytest.mark.parametrize(("classes", "filled"), [(7, True), (5, False), (10, False)])
def test_expressions_are_filled_where_they_mean_the_same(network: Any, file: str, classes: int, filled: bool):
    model = video_network(**{"model.head.num_expressions": classes})
    report = TransductionHook(file).load(model)
    assert ("head.classify.weight" in report.copied) == filled
    if filled:
        assert torch.equal(model.head.classify.weight, network.classifier.weight[[5, 4, 6, 7, 3, 2, 0]])
    assert torch.equal(model.head.regress.weight, network.classifier.weight[8:])


def test_a_head_of_other_features_starts_afresh(file: str):
    options = {"model.backbone.head_features": False, "model.backbone.out_indices": [-1]}
    model = video_network(**options)
    before = model.head.regress.weight.clone()
    report = TransductionHook(file).load(model)
    assert torch.equal(model.head.regress.weight, before)
    assert report.complete
    assert report.classifier == ["classifier.weight", "classifier.bias"]
    assert "the head starts afresh: the rows are for an AffectHead without a hidden layer on 1280 channels" in str(
        report
    )


def test_expressions_alone_start_a_backbone_and_nothing_else(tmp_path: Path):
    net = efficientnet("b0", 8, sequence=True)
    torch.save(net, tmp_path / "renamed.pt")  # which of two it is does not matter here
    model = video_network()
    before = model.head.regress.weight.clone()
    report = TransductionHook(str(tmp_path / "renamed.pt")).load(model)
    assert torch.equal(model.backbone.net.conv_head.weight, net.conv_head.weight)
    assert torch.equal(model.head.regress.weight, before)
    assert report.classifier == ["classifier.0.weight", "classifier.0.bias"]
    assert "enet_b0_8_best_afew or enet_b0_8_best_vgaf" in str(report)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_b2"])
def test_another_backbone_is_refused_with_the_name_that_fits(file: str, name: str):
    model = video_network(**{"model.backbone.model_name": name})
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"enet_b0_8_va_mtl, .*model_name='tf_efficientnet_b0', got '{name}'"):
        TransductionHook(file).load(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
