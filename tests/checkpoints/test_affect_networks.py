"""Published affect networks are known by their files: by the tensors, by what a whole module says, by the name."""

import functools
import re

import pytest
import timm
import torch
from torch import nn

from hocp_mm.checkpoints import KnownWeights, affect_network, known_weights, read_checkpoint, unwrap_state_dict
from hocp_mm.checkpoints.affect_networks import NETWORKS, page
from hocp_mm.datasets.affectnet.rows import EXPRESSIONS
from hocp_mm.errors import CheckpointError, UnknownModelError
from tests.material.affect_networks import efficientnet
from tests.material.processes import ROOT


def told(net, path, **options):
    """Save a network and say whose it is: names of networks, or why of none."""
    torch.save(net, path, **options)
    return whose(path)


def whose(path):
    known = known_weights(unwrap_state_dict(read_checkpoint(path), path), str(path))
    return [network.name for network in known.networks] if isinstance(known, KnownWeights) else known


@functools.cache
def small(name, outputs, **options):
    """One network of each kind for all tests; nobody changes it."""
    return efficientnet(name, outputs, **options)


FILES = {
    "whole, valence and arousal": (lambda: small("b0", 10), "enet_b0_8_va_mtl"),
    "whole, as a sequence": (lambda: small("b0", 7 + 1, sequence=True), "enet_b0_8_best_afew"),
    "another of the same shapes": (lambda: small("b0", 7 + 1, sequence=True), "enet_b0_8_best_vgaf"),
    "eight of the larger one": (lambda: small("b2", 8, sequence=True), "enet_b2_8"),
    "seven of the larger one": (lambda: small("b2", 7, sequence=True), "enet_b2_7"),
    "a state dict": (lambda: small("b0", 10).state_dict(), "enet_b0_8_va_mtl"),
    "in parallel": (lambda: nn.DataParallel(small("b0", 10)), "enet_b0_8_va_mtl"),
    "beside an epoch": (lambda: {"epoch": 1, "model": small("b0", 10)}, "enet_b0_8_va_mtl"),
    "inside a larger network": (
        lambda: {f"model.{name}": tensor for name, tensor in small("b0", 10).state_dict().items()},
        "enet_b0_8_va_mtl",
    ),
}


@pytest.mark.parametrize(("make", "name"), FILES.values(), ids=FILES.keys())
def test_a_file_is_known_under_its_name(tmp_path, make, name):
    path = tmp_path / f"{name}.pt"
    assert told(make(), path) == [name]
    assert whose(path.rename(tmp_path / "renamed.pt")) == [
        network.name
        for network in NETWORKS.values()
        if (network.architecture, len(network.outputs)) == (NETWORKS[name].architecture, len(NETWORKS[name].outputs))
    ]


@functools.cache
def of_lightning(architecture):
    """A checkpoint as fer-pytorch's trainer left it: names under two wrappers, other things beside them."""
    torch.manual_seed(0)
    net = timm.create_model(architecture, num_classes=7)
    return net, {
        "epoch": 12,
        "state_dict": {f"model.model.{name}": tensor for name, tensor in net.state_dict().items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(64, 3, 7, 7)}}}],
        "hyper_parameters": {"cfg": {"model": {"model_name": architecture}}},
    }


@pytest.mark.parametrize("architecture", ["resnet34", "mobilenetv2_140"])
def test_networks_of_fer_pytorch_are_known_by_name_alone(tmp_path, architecture):
    """Anybody's ResNet has seven outputs, in any order."""
    net, checkpoint = of_lightning(architecture)
    network = NETWORKS[f"fer_pytorch_{architecture}"]
    assert isinstance(told(checkpoint, tmp_path / "resnet34_best.ckpt"), str)
    for file in (network.file, network.address.rpartition("/")[2]):
        assert told(checkpoint, tmp_path / file) == [network.name]
    other = timm.create_model("resnet18", num_classes=7).state_dict()
    assert re.match("no (layer1.2|conv_stem)", told(other, tmp_path / network.file))
    torch.save(checkpoint, tmp_path / network.file)
    known = known_weights(unwrap_state_dict(read_checkpoint(tmp_path / network.file), ""), network.file)
    rows = known.rows(EXPRESSIONS[:7])
    # Theirs: neutral, happiness, surprise, sadness, anger, disgust, fear.
    assert torch.equal(rows["weight"], net.get_classifier().weight[[0, 1, 3, 2, 6, 5, 4]])
    assert known.state.keys() == {name for name in net.state_dict() if not name.startswith(("fc.", "classifier."))}


def test_the_name_does_not_outvote_the_tensors(tmp_path):
    assert told(small("b0", 10), tmp_path / "enet_b2_8.pt") == ["enet_b0_8_va_mtl"]


def test_rows_come_by_name(tmp_path):
    net, path = small("b0", 10), tmp_path / "enet_b0_8_va_mtl.pt"
    torch.save(net, path)
    known = known_weights(unwrap_state_dict(read_checkpoint(path), path), str(path))
    affect, classes = known.rows(("valence", "arousal")), known.rows(EXPRESSIONS)
    assert torch.equal(affect["weight"], net.classifier.weight[8:])
    assert torch.equal(affect["bias"], net.classifier.bias[8:])
    # The alphabet: Anger, Contempt, Disgust, Fear, Happiness, Neutral, Sadness, Surprise. AffectNet: neutral, happy,
    # sad, surprise, fear, disgust, anger, contempt.
    assert torch.equal(classes["weight"], net.classifier.weight[[5, 4, 6, 7, 3, 2, 0, 1]])
    assert torch.equal(classes["bias"], net.classifier.bias[[5, 4, 6, 7, 3, 2, 0, 1]])
    assert list(known.state) == [name for name in net.state_dict() if not name.startswith("classifier")]
    with pytest.raises(ValueError, match="boredom"):
        known.rows(("boredom",))


def changed(name, tensor):
    state = dict(small("b0", 10).state_dict())
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    return state


STRANGERS = {
    "another architecture": (lambda: timm.create_model("efficientnet_b0", num_classes=10), "class .*Conv2d, not"),
    "another epsilon": (lambda: efficientnet("b0", 10, eps=1e-5), "bn1 with eps 1e-05"),
    "a smaller network": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=10), "^no blocks"),
    "a network without such a stem": (lambda: timm.create_model("test_resnet", num_classes=10), "no conv_stem"),
    "another number of outputs": (lambda: small("b0", 5), "^5 outputs of a tf_efficientnet_b0$"),
    "no classifier": (lambda: changed("classifier.weight", None), "^no classifier.weight"),
    "one tensor of another shape": (
        lambda: changed("blocks.1.0.conv_pw.weight", torch.ones(1)),
        r"^blocks.1.0.conv_pw.weight \(1,\) where tf_efficientnet_b0 has",
    ),
    "one tensor too many": (lambda: changed("bad name" * 90, torch.ones(1)), r"which tf_efficientnet_b0 has not"),
    "rows without biases": (lambda: changed("classifier.bias", torch.ones(3)), "10 rows and 3 biases"),
    "whole numbers": (lambda: changed("bn2.weight", torch.ones(1280, dtype=torch.int64)), "^bn2.weight"),
    "a scalar for a classifier": (lambda: changed("classifier.weight", torch.tensor(1.0)), r"classifier.weight \(\)"),
}


@pytest.mark.parametrize(("make", "why"), STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_not_of_a_known_network_is_told_in_a_few_words(tmp_path, make, why):
    said = told(make(), tmp_path / "enet_b0_8_va_mtl.pt")
    assert isinstance(said, str)
    assert "\n" not in said
    assert len(said) < 600
    assert re.search(why, said), said


def test_emonet_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "any.pth"
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7), "module.emo_fc_2.3.weight": torch.ones(10, 128)}, path)
    with pytest.raises(CheckpointError, match=r"any.pth: emonet is not taken: .*its licence.*face-analysis/emonet"):
        known_weights(unwrap_state_dict(read_checkpoint(path), path), str(path))
    with pytest.raises(CheckpointError, match="emonet is not taken"):
        affect_network("emonet_8")


def test_an_unknown_name_lists_all():
    with pytest.raises(UnknownModelError, match=r"one of enet_b0_8_va_mtl, .*enet_b2_7, .*got 'enet'"):
        affect_network("enet")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_table_agrees_with_itself(network):
    assert affect_network(network.name) is network
    assert timm.is_model(network.architecture)
    expressions = [output for output in network.outputs if output in EXPRESSIONS]
    assert network.outputs[len(expressions) :] == (("valence", "arousal") if "_mtl" in network.name else ())
    assert network.address.startswith("https://")
    if not network.name.startswith("enet_"):
        assert set(expressions) == set(EXPRESSIONS[:7])
        return
    # HSEmotion's own rules: a name says size and outputs.
    assert network.timm_name in timm.list_pretrained(f"{network.architecture}.*")
    assert expressions == sorted(set(EXPRESSIONS) - ({"contempt"} if "_7" in network.name else set()))
    assert network.size == (224 if "_b0_" in network.name else 260)
    assert network.file == f"{network.name}.pt" == network.address.rpartition("/")[2]


def test_the_page_is_that_of_the_table():
    assert (ROOT / "docs" / "affect_networks.md").read_text(encoding="utf-8") == page()


def with_others(**entries):
    """The state of a good network with other tensors, by names whose dots are double lines."""
    return {**small("b0", 10).state_dict(), **{name.replace("__", "."): value for name, value in entries.items()}}


@pytest.mark.parametrize("shape", [(2,), (1,), (0,), (1, 1)])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_counters_have_the_shape_of_counters(tmp_path, shape, prefix):
    """Such a file would be kept, and fail when it is loaded."""
    state = with_others(blocks__0__0__bn1__num_batches_tracked=torch.zeros(shape, dtype=torch.long))
    why = told({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "enet_b0_8_va_mtl.pt")
    assert why.startswith(f"blocks.0.0.bn1.num_batches_tracked {shape} where tf_efficientnet_b0 has ()")


TWICE = {
    "a sequence of one layer": ("classifier.0.bias", 10),
    "the mark of a compiled layer": ("conv_stem._orig_mod.weight", 1),
}


@pytest.mark.parametrize("case", list(TWICE))
def test_two_tensors_of_one_name_are_not_chosen_from(tmp_path, case):
    name, size = TWICE[case]
    path = tmp_path / "enet_b0_8_va_mtl.pt"
    with pytest.raises(CheckpointError, match=r"mtl\.pt: tensors must have names of their own, got two for "):
        told({**small("b0", 10).state_dict(), name: torch.zeros(size)}, path)


@pytest.mark.parametrize("value", [5, None, {"a": 1}, "x", [1]])
def test_extra_state_of_several_networks_is_not_compared(tmp_path, value):
    """It may be anything, and says nothing about tensors."""
    good, path = small("b0", 10).state_dict(), tmp_path / "enet_b0_8_va_mtl.pt"
    both = {f"{prefix}.{name}": tensor for prefix in ("model", "net") for name, tensor in good.items()}
    both |= {"model.a._extra_state": value, "net.a._extra_state": value}
    assert told(both, path).startswith("model.conv_stem.weight, which tf_efficientnet_b0 has not")
    other = {**both, "net.conv_stem.weight": good["conv_stem.weight"] + 1}
    with pytest.raises(CheckpointError, match=r"enet_b0_8_va_mtl\.pt: one network must fit"):
        told(other, path)
