"""Names of other libraries and of wrappers become timm's, all or none, by places and shapes."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from hocp_mm.checkpoints import Weights, has_other_names, load_image_weights_, todays_names
from hocp_mm.checkpoints.renaming import _torchvision_epsilon
from hocp_mm.checkpoints.report import LoadReport
from hocp_mm.errors import CheckpointError
from hocp_mm.models import TimmHOCPBackbone

PICTURES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).sin().reshape(2, 3, 64, 64)


def shapes(net, without=()):
    return {name: tensor.shape for name, tensor in net.state_dict().items() if not name.startswith(tuple(without))}


def filled(net):
    """Give norms statistics that a fresh network has not."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape) + 0.5 * ("bias" not in name and "mean" not in name))
    return net.eval()


def to_lukemelas(state):
    """Give the tensors of a timm EfficientNet the names of EfficientNet-PyTorch; written apart from the rule."""
    renamed, blocks = {}, []
    layers = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    inverted = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    }  # fmt: skip
    gate = {"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            renamed[".".join([layers[parts[0]], *parts[1:]])] = tensor
            continue
        block = ".".join(parts[:3])
        if block not in blocks:
            blocks.append(block)
        kind = inverted if f"{block}.conv_pwl.weight" in state else separable
        layer = gate[parts[4]] if parts[3] == "se" else kind[parts[3]]
        renamed[f"_blocks.{blocks.index(block)}.{layer}.{parts[-1]}"] = tensor
    return renamed


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod.encoder."])
def test_all_names_of_lukemelas_become_timms_whatever_their_order(name, prefix):
    net = timm.create_model(name)
    state = net.state_dict()
    theirs = {f"{prefix}{key}": value for key, value in sorted(to_lukemelas(state).items())}
    assert has_other_names(theirs)
    renamed = todays_names(theirs, shapes(net))
    assert renamed.state.keys() == state.keys()
    assert all(renamed.state[key] is value for key, value in state.items())
    assert not renamed.left_out
    assert renamed.state.notes[0].startswith(f"{len(state)} tensors have names of EfficientNet-PyTorch and got today's")
    without = todays_names(theirs, shapes(net, ["classifier"]))
    assert sorted(without.left_out) == ["_fc.bias", "_fc.weight"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("efficientnet_b0", "efficientnet_b0"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("resnet18", "resnet18"),
    ],
)
def test_a_network_of_torchvision_says_the_same_in_timm(theirs, ours):
    source = filled(torchvision.models.get_model(theirs, num_classes=7))
    net = timm.create_model(ours, num_classes=7).eval()
    state = dict(sorted(source.state_dict().items()))
    renamed = todays_names(state, shapes(net))
    net.load_state_dict(renamed.state)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # torchvision's MobileNets have another epsilon
            module.eps = next(m.eps for m in source.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        torch.testing.assert_close(net(PICTURES), source(PICTURES), rtol=1e-3, atol=1e-4)
    assert has_other_names(state) == (theirs != "resnet18")
    assert bool(renamed.state.notes) == (theirs != "resnet18")


def with_statistics(net):
    """Give norms the statistics of pictures; their variances are small, as those of many trained layers are."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(PICTURES)
    return net.eval()


def first_stages(backbone):
    with torch.no_grad():
        return backbone.eval()(PICTURES.unsqueeze(2))[0][:, :, 0]


def test_norms_of_another_epsilon_compute_what_they_did(tmp_path):
    path = tmp_path / "theirs.pth"
    source = with_statistics(torchvision.models.mobilenet_v3_small(num_classes=7))
    torch.save(source.state_dict(), path)
    backbone = TimmHOCPBackbone("mobilenetv3_small_100", out_indices=(1,), checkpoint=str(path))
    with torch.no_grad():
        torch.testing.assert_close(first_stages(backbone), source.features[:2](PICTURES), rtol=1e-3, atol=1e-4)
    assert "their variances make up for it" in backbone.load_report.notes[-1]
    torch.save(to_lukemelas(with_statistics(timm.create_model("tf_efficientnet_b0")).state_dict()), path)
    assert len(TimmHOCPBackbone("tf_efficientnet_b0", out_indices=(0,), checkpoint=str(path)).load_report.notes) == 1
    notes = TimmHOCPBackbone("efficientnet_b0", out_indices=(0,), checkpoint=str(path)).load_report.notes
    assert "pads images otherwise than 'efficientnet_b0'" in notes[-1]
    assert "take timm's network with 'tf_'" in notes[-1]


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "efficientnet_b4",
        "efficientnet_b5",
        "efficientnet_v2_s",
    ],
)
def test_the_epsilon_of_a_network_of_torchvision_is_told_by_its_names_and_shapes(name):
    with torch.device("meta"):
        net = torchvision.models.get_model(name)
    told = next(module.eps for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    assert _torchvision_epsilon(net.state_dict()) == told


def test_the_linear_layers_of_a_vgg_become_convolutions():
    theirs, ours = torchvision.models.vgg, timm.models.vgg
    plan = [4, "M", 8, "M"]
    source = theirs.VGG(theirs.make_layers(plan), num_classes=5)
    source.classifier[0], source.classifier[3] = nn.Linear(8 * 49, 32), nn.Linear(32, 4096)
    source.classifier[6] = nn.Linear(4096, 5)
    net = ours.VGG(plan, num_classes=5, mlp_ratio=1 / 128).eval()
    renamed = todays_names(source.state_dict(), shapes(net))
    net.load_state_dict(renamed.state)
    pictures = PICTURES[..., :28, :28]
    with torch.no_grad():
        torch.testing.assert_close(net(pictures), source.eval()(pictures), rtol=1e-4, atol=1e-5)
    assert todays_names(source.state_dict(), shapes(net, ["head"])).left_out == [
        "classifier.6.weight",
        "classifier.6.bias",
    ]


def test_a_rule_that_fits_not_everywhere_renames_nothing():
    net = timm.create_model("tf_efficientnet_lite0")
    theirs = to_lukemelas(net.state_dict())
    theirs["_blocks.3._project_conv.weight"] = torch.ones(1)
    for state in (theirs, to_lukemelas(timm.create_model("tf_efficientnet_lite1").state_dict())):
        renamed = todays_names(state, shapes(net))
        assert dict(renamed.state) == state
        assert not renamed.state.notes
        assert not renamed.left_out


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "encoder.", "model.encoder.", "backbone._orig_mod."])
def test_a_prefix_is_taken_off_and_what_lies_beside_it_left_out(tmp_path, prefix):
    net = timm.create_model("resnet10t")
    path = tmp_path / "larger.pth"
    state = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.ones(2)}}, path)
    report = TimmHOCPBackbone("resnet10t", rank=4, checkpoint=str(path)).load_report
    assert report.complete
    assert "loss.weight" in report.classifier
    assert f"note: prefix '{prefix}' was taken off {len(state)} names." in str(report)


@pytest.mark.parametrize("rename", [dict, to_lukemelas])
def test_of_two_networks_in_a_file_none_is_chosen(rename):
    """A teacher beside a student, say; one network under two names is one."""
    net = timm.create_model("tf_efficientnet_lite0")
    state = rename(net.state_dict())
    other = {name: tensor + 1 for name, tensor in state.items()}
    both = {
        f"{prefix}.{name}": t for prefix, part in (("backbone", state), ("encoder", other)) for name, t in part.items()
    }
    with pytest.raises(CheckpointError, match=r"x\.pth: one network must fit, got others under 'backbone\.' and 'enc"):
        todays_names(both, shapes(net), "x.pth")
    both = {f"{prefix}.{name}": tensor for prefix in ("backbone", "encoder") for name, tensor in state.items()}
    assert todays_names(both, shapes(net)).state.keys() >= net.state_dict().keys()


def test_a_whole_network_of_other_names_fills_the_backbone_and_verify(tmp_path):
    """All doors: a pickled module, an average, lukemelas' names, another number of classes."""
    from hocp_mm.analysis.twins import build_twins

    net = timm.create_model("tf_efficientnet_lite0", num_classes=8)
    theirs = to_lukemelas(net.state_dict())
    path = tmp_path / "theirs.pth"
    torch.save({"state_dict": net.state_dict(), "state_dict_ema": theirs}, path)
    backbone = TimmHOCPBackbone("tf_efficientnet_lite0", checkpoint=str(path))
    report = backbone.load_report
    assert report.complete
    assert [note.split()[0] for note in report.notes] == ["the", str(len(theirs) - 2)]  # of the classifier
    own = backbone.net.state_dict()
    assert torch.equal(own["blocks.2.1.conv_pwl.weight"], net.state_dict()["blocks.2.1.conv_pwl.weight"])
    whole = tmp_path / "whole.pt"
    torch.save(nn.DataParallel(net), whole)
    report = TimmHOCPBackbone("tf_efficientnet_lite0", checkpoint=str(whole)).load_report
    assert report.complete
    assert "DataParallel" in report.notes[0]
    for checkpoint in (path, whole):
        assert build_twins("tf_efficientnet_lite0", str(checkpoint)).dense is not None


def test_unknown_names_are_listed_with_the_nearest_of_their_shape():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(9, 5))
    state = {f"a.{name}": tensor for name, tensor in net.state_dict().items()}
    rule = (
        r"of the same shape: a\.0\.weight as 0\.weight, a\.0\.bias as 0\.bias, a\.1\.weight as 1\.weight, … \(5 more\)"
    )
    with pytest.raises(CheckpointError, match=rule):
        load_image_weights_(net, state, source="x.pth")
    state["2.bias"] = state.pop("a.2.bias")  # where nothing fits, nothing is loaded in any case
    report = load_image_weights_(net, state, source="x.pth", allow_missing=True)
    assert report.nearest["a.1.running_var"][0] == "1.running_var"
    assert "  of the same shape as a.2.weight: 2.weight" in str(report)


def test_notes_of_a_source_are_in_the_report():
    net = nn.Linear(2, 2)
    report = load_image_weights_(net, Weights(net.state_dict(), ["something"]), source="x.pth")
    assert "\n  note: something." in str(report)


TWICE = {
    "a compiled layer": {"conv1._orig_mod.weight": 0},
    "a compiled layer under a prefix": {"model.conv1.weight": 0, "model.conv1._orig_mod.weight": 1},
    "beside a prefix": {"model.conv1.weight": 0, "model.fc.bias": 0, "fc.bias": 1},
}


@pytest.mark.parametrize("case", list(TWICE))
def test_the_later_of_two_tensors_does_not_take_the_place_of_the_other(case):
    one = {"conv1.weight": torch.ones(4, 3, 3, 3)} if case == "a compiled layer" else {}
    state = {**one, **{name: torch.full((4, 3, 3, 3), float(value)) for name, value in TWICE[case].items()}}
    shapes = {"conv1.weight": torch.Size([4, 3, 3, 3])}
    with pytest.raises(
        CheckpointError, match=r"x\.pth: tensors must have names of their own, got two for (model\.)?(conv1|fc)"
    ):
        todays_names(state, shapes, "x.pth")


ODD_NAMES = ["\x1b]0;pwned\x07\x1b[2J\nERROR: forged line", "\ud800", "x" * 900, "\u202e", "\r"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
@pytest.mark.parametrize("kind", ["classifier", "unexpected", "missing", "mismatched", "kept", "cut_off", "notes"])
def test_names_reach_a_terminal_as_text(kind, name):
    report = LoadReport("x.pth", **{kind: [name] * 7}, nearest={name: [name]})
    for text in (str(report), *_refusal(report)):
        lines = text.split("\n")
        assert all(line.isprintable() and len(line) < 1200 for line in lines)
        assert not any(line.startswith("ERROR") for line in lines)
        text.encode()


def _refusal(report):
    try:
        report.raise_if_incomplete()
    except CheckpointError as error:
        yield str(error)
