import copy
import logging

import pytest
import torch
from mmengine.logging import MMLogger

from hocp_mm.apis import AffectInferencer
from hocp_mm.errors import CheckpointError
from hocp_mm.launch import load_weights, read_fitting
from hocp_mm.layers import HOCPConv2d, prune_ranks_
from tests.laws import state_shapes
from tests.material.tiny_configs import tiny_config, tiny_network, write_checkpoint
from tests.material.tiny_runs import TinyRecognizer


@pytest.fixture
def pruned(tmp_path):
    """A checkpoint of a network that has lost two of its six components, and the network."""
    torch.manual_seed(1)
    model = TinyRecognizer()
    with torch.no_grad():
        model.backbone[2].weights[[1, 4]] = 0
    assert prune_ranks_(model) == {"backbone.2": (6, 4)}
    path = tmp_path / "pruned.pth"
    torch.save({"meta": {}, "state_dict": model.state_dict()}, path)
    return path, model.eval()


@pytest.fixture
def logged(monkeypatch):
    """Lines of the current logger."""
    lines: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), "log", lambda level, text: lines.append((level, text)))
    return lines


def warnings_in(logged):
    """What a user sees at the level WARNING, such as none of mmengine's lines about the registry."""
    return [text for level, text in logged if level >= logging.WARNING]


def test_a_pruned_checkpoint_loads_strictly_into_the_network_of_the_config(pruned, logged):
    path, expected = pruned
    model = TinyRecognizer().eval()
    load_weights(model, path)
    x = torch.randn(1, 3, 5, 8, 8)
    assert torch.equal(model(x), expected(x))
    text = f"checkpoint {path}: 1 layers take its ranks instead of the config's (backbone.2 6 -> 4)."
    assert warnings_in(logged) == [text]


def test_the_inferencer_runs_a_pruned_network_with_the_config_it_was_trained_with(tmp_path):
    cfg = tiny_config()
    network = tiny_network(cfg)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, HOCPConv2d):
                layer.weights[1] = 0
    pruned = prune_ranks_(network)
    assert set(pruned.values()) == {(4, 3)}
    inferencer = AffectInferencer(write_checkpoint(tmp_path / "pruned.pth", cfg, network), device="cpu")
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(inferencer.model(clip, mode="tensor"), network(clip, mode="tensor"))


def test_a_checkpoint_of_the_same_ranks_loads_without_a_word(pruned, logged):
    path, expected = pruned
    load_weights(copy.deepcopy(expected), path)
    assert warnings_in(logged) == []


def test_reading_prepares_the_shapes_and_leaves_the_loading_to_others(pruned):
    path, expected = pruned
    model = TinyRecognizer()
    state = read_fitting(model, path)
    assert state_shapes(model) == state_shapes(expected)
    assert not torch.equal(model.head.weight, state["head.weight"])


def damaged(state, **changes):
    return {**state, **{name.replace("__", "."): tensor for name, tensor in changes.items()}}


MISFITS = {
    "ranks that disagree": (
        lambda s: damaged(s, backbone__2__weights=torch.ones(3)),
        r"ranks must fit the model, got .*bad\.pth \(match_ranks_: .* equally many components, got weights 3",
    ),
    "other taps": (
        lambda s: damaged(s, backbone__2__factors__t=torch.ones(5, 4)),
        r"another architecture .*1 of another shape: backbone\.2\.factors\.t \(5, 4\) instead of \(3, 4\)",
    ),
    "other channels": (
        lambda s: damaged(s, backbone__2__factors__in=torch.ones(9, 4)), r"factors\.in \(9, 4\) instead of \(8, 6\)",
    ),
    "a missing factor": (
        lambda s: {n: t for n, t in s.items() if n != "backbone.2.factors.t"}, r"1 missing: backbone\.2\.factors\.t",
    ),
    "a dense kernel": (
        lambda s: damaged({n: t for n, t in s.items() if "backbone.2" not in n}, backbone__2__weight=torch.ones(4, 8)),
        r"1 unexpected: backbone\.2\.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), MISFITS.values(), ids=MISFITS)
def test_nothing_but_ranks_may_differ(pruned, tmp_path, damage, message):
    torch.save({"state_dict": damage(pruned[1].state_dict())}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=message):
        load_weights(TinyRecognizer(), tmp_path / "bad.pth")
