"""What the backbone keeps of timm: stages, head features, weights, re-parameterisable blocks."""

import copy
import pickle

import pytest
import timm
import torch
from timm.layers.cond_conv2d import CondConv2d
from timm.models.nfnet import NormFreeNet
from timm.utils import reparameterize_model
from torch import Tensor, nn

from hocp_mm.errors import CheckpointError
from hocp_mm.functional import dense_kernel
from hocp_mm.layers import prune_ranks_
from hocp_mm.models import TimmHOCPBackbone
from tests.laws import assert_close, assert_framewise, random_kernel

NFNETS = pytest.mark.skipif(
    not hasattr(NormFreeNet, "forward_intermediates"), reason="this timm does not give the stages of NFNets"
)
SMALL = ["test_resnet", "test_efficientnet", "test_convnext", pytest.param("test_nfnet", marks=NFNETS)]


def lived_in(name: str, **options) -> nn.Module:
    """A timm network as after training: statistics, no residual branch at zero."""
    torch.manual_seed(1)
    net = timm.create_model(name, num_classes=5, **options).eval()
    for key, buffer in net.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return net


def saved(net: nn.Module, folder) -> str:
    path = folder / "image.pth"
    torch.save(net.state_dict(), path)
    return str(path)


def stages(net: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return net.forward_intermediates(image, intermediates_only=True)


@pytest.mark.parametrize("name", SMALL)
def test_without_cp_kernels_every_frame_is_that_of_the_timm_network(name, tmp_path):
    image = lived_in(name)
    video = TimmHOCPBackbone(name, checkpoint=saved(image, tmp_path), factorize=(), out_indices=(0, 1, -1)).eval()
    assert video.factorized == []
    assert len(video.transducted) > 4
    clip = torch.randn(2, 3, 3, 64, 64)
    features = video(clip)
    for frame in range(3):
        expected = stages(image, clip[:, :, frame])
        for feature, number in zip(features, (0, 1, -1), strict=True):
            assert_close(feature[:, :, frame], expected[number], 1e-5, f"frame {frame}, stage {number}")
    assert video.out_channels == [feature.shape[1] for feature in features]


@pytest.mark.parametrize("name", SMALL)
def test_factorized_networks_are_framewise_and_every_temporal_factor_learns(name):
    video = TimmHOCPBackbone(name, rank=4, temporal_init="last")
    image = TimmHOCPBackbone(name, rank=4, temporal_kernel=1)
    state = lived_in(name).state_dict()
    common = {key: state[key] for key in video.net.state_dict().keys() & state.keys()}
    video.net.load_state_dict(common, strict=False)
    missing = video.load_state_dict(image.state_dict() | {f"net.{key}": t for key, t in common.items()}, strict=False)
    assert all(key.endswith("factors.t") for key in missing.missing_keys)
    assert len(missing.missing_keys) == len(video.transducted)
    image.load_state_dict(video.state_dict(), strict=False)
    video.eval(), image.eval()
    assert_framewise(lambda c: video(c)[-1], lambda c: image(c)[-1], torch.randn(2, 3, 4, 64, 64), tolerance=1e-5)
    feature = video.train()(torch.randn(2, 3, 3, 64, 64))[-1]
    (feature * torch.randn_like(feature)).sum().backward()
    for key, parameter in video.named_parameters():
        assert parameter.grad is not None, f"{key} got no gradient"
        if key.endswith("factors.t"):
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "mobilenetv3_small_050"])
def test_head_features_are_what_the_classifier_of_timm_sees(name, tmp_path):
    image = lived_in(name)
    video = TimmHOCPBackbone(
        name, checkpoint=saved(image, tmp_path), factorize=(), out_indices=(), head_features=True
    ).eval()
    clip = torch.randn(2, 3, 3, 64, 64)
    (features,) = video(clip)
    with torch.no_grad():
        expected = image.forward_head(image.forward_features(clip[:, :, 1]), pre_logits=True)
    assert video.out_channels == [features.shape[1]]
    assert features.shape[3:] == (1, 1)
    assert_close(features[:, :, 1, 0, 0], expected, 1e-5, "frame 1")


def test_stages_after_the_last_one_are_cut_off_and_their_weights_left_out(tmp_path):
    video = TimmHOCPBackbone(
        "test_resnet", checkpoint=saved(lived_in("test_resnet"), tmp_path), rank=4, out_indices=(1,)
    )
    assert not any(key.startswith(("layer2", "layer3", "layer4")) for key in video.net.state_dict())
    assert video.load_report.complete
    assert any(key.startswith("layer4") for key in video.load_report.cut_off)
    assert sorted(video.load_report.classifier) == ["fc.bias", "fc.weight"]


@pytest.mark.parametrize(
    ("name", "behind", "classifier"),
    [
        ("test_efficientnet", {"conv_head", "bn2"}, "classifier"),
        ("test_convnext", {"head.norm"}, "head.fc"),
        ("mobilenetv3_small_050", {"conv_head"}, "classifier"),
    ],
)
def test_a_head_convolution_and_a_last_norm_are_no_classifier(name, behind, classifier, tmp_path):
    report = TimmHOCPBackbone(name, checkpoint=saved(lived_in(name), tmp_path), rank=1).load_report
    assert {key.rpartition(".")[0] for key in report.classifier} == {classifier}
    assert {key.rpartition(".")[0] for key in report.cut_off} == behind


@pytest.mark.parametrize("name", ["mobileone_s0", "repvgg_a0", "repvit_m1"])
def test_blocks_are_fused_before_they_are_transducted(name, tmp_path):
    image = lived_in(name)
    path = saved(image, tmp_path)
    whole = TimmHOCPBackbone(name, rank=2)
    fused = TimmHOCPBackbone(name, checkpoint=path, factorize=(), reparameterize=True).eval()
    assert len(list(fused.net.modules())) < len(list(whole.net.modules()))
    clip = torch.randn(1, 3, 2, 64, 64)
    assert_close(fused(clip)[-1][:, :, 1], stages(image, clip[:, :, 1])[-1], 1e-4, name)
    again = TimmHOCPBackbone(name, factorize=(), reparameterize=True).eval()
    again.load_state_dict(fused.state_dict())
    assert torch.equal(again(clip)[-1], fused(clip)[-1])
    with pytest.raises(NotImplementedError, match="reparameterize=True"):
        reparameterize_model(whole.net)
    pickle.dumps(copy.deepcopy(whole))


def test_grey_clips_get_the_first_layer_that_timm_would_make(tmp_path):
    image = lived_in("test_resnet")
    video = TimmHOCPBackbone("test_resnet", checkpoint=saved(image, tmp_path), factorize=(), in_chans=1).eval()
    grey = torch.randn(1, 1, 2, 64, 64)
    expected = stages(image, grey[:, :, 1].expand(-1, 3, -1, -1))[-1]  # timm sums over the colours
    assert_close(video(grey)[-1][:, :, 1], expected, 1e-5, "frame 1")


@pytest.mark.parametrize("rank", ["auto", {"layer1": "error0.02", ".": "x1"}], ids=str)
def test_ranks_may_look_at_the_weights_of_a_checkpoint(rank, tmp_path):
    image = lived_in("test_resnet")
    for name, module in image.named_modules():
        if name.startswith("layer1") and isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            kernel = random_kernel(module.out_channels, module.in_channels, rank=3, dtype=torch.float32)
            module.weight.data = dense_kernel(kernel)
    video = TimmHOCPBackbone("test_resnet", checkpoint=saved(image, tmp_path), rank=rank)
    found = [layer.rank for name, layer in video.net.named_modules() if name in video.factorized and "layer1" in name]
    assert found
    assert all(rank <= 5 for rank in found)


def test_frozen_parameters_never_train_and_their_norms_keep_their_statistics():
    backbone = TimmHOCPBackbone("test_resnet", rank=4, freeze=[r"^conv1", r"^bn1", r"^layer1"]).train()
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    backbone(torch.randn(2, 3, 2, 64, 64))[-1].square().mean().backward()
    optimizer.step()
    after = backbone.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith(("net.conv1", "net.bn1", "net.layer1")) for key in moved)
    assert any(key.startswith("net.layer4") and key.endswith("running_mean") for key in moved)


def test_norm_eval_keeps_the_statistics_of_all_batch_norms():
    backbone = TimmHOCPBackbone("test_resnet", rank=4, norm_eval=True).train()
    before = copy.deepcopy(dict(backbone.named_buffers()))
    backbone(torch.randn(2, 3, 2, 64, 64))
    assert backbone.training
    assert all(torch.equal(before[key], buffer) for key, buffer in backbone.named_buffers())


def test_words_of_the_hocp_layers_pass_through():
    backbone = TimmHOCPBackbone("test_resnet", rank=4, conv_options={"recompute": True, "dropout": 0.25})
    layers = [layer for name, layer in backbone.net.named_modules() if name in backbone.factorized]
    assert all(layer.recompute and layer.dropout == 0.25 for layer in layers)


def test_layers_are_selected_by_pattern():
    backbone = TimmHOCPBackbone("test_resnet", rank=4, factorize=["^layer4"], temporal_layers=["^layer4", r"^conv1\.0"])
    assert backbone.factorized
    assert all(name.startswith("layer4") for name in backbone.factorized)
    assert backbone.transducted == ["conv1.0", *backbone.factorized]


def test_a_file_of_other_shapes_is_refused_where_blocks_are_fused(tmp_path):
    state = lived_in("mobileone_s0").state_dict()
    state["stem.conv_kxk.0.conv.weight"] = torch.zeros(3, 3, 3, 3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"those of 'mobileone_s0', got 1 of other shapes .*other\.pth"):
        TimmHOCPBackbone("mobileone_s0", checkpoint=str(tmp_path / "other.pth"), reparameterize=True)


def test_a_pruned_image_network_keeps_its_ranks(tmp_path):
    image = TimmHOCPBackbone("test_resnet", rank=6, temporal_kernel=1).eval()
    for name in image.factorized[:2]:
        nn.init.zeros_(image.net.get_submodule(name).weights[4:])
    prune_ranks_(image)
    torch.save(image.state_dict(), tmp_path / "pruned.pth")
    video = TimmHOCPBackbone("test_resnet", rank=6, checkpoint=str(tmp_path / "pruned.pth")).eval()
    assert [video.net.get_submodule(name).rank for name in video.factorized[:3]] == [4, 4, 6]
    assert_framewise(lambda c: video(c)[-1], lambda c: image(c)[-1], torch.randn(1, 3, 3, 64, 64), tolerance=1e-5)


@pytest.mark.skipif(
    torch.__version__.startswith("2.4."),
    reason="dynamo of torch 2.4 cannot follow enumerate(modules, start=1), which timm's forward_intermediates calls",
)
def test_the_backbone_compiles_without_graph_breaks_for_any_number_of_frames():
    backbone = TimmHOCPBackbone("test_efficientnet", rank=4).eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    with torch.no_grad():
        for clips, frames in ((2, 4), (2, 6), (1, 3)):
            clip = torch.randn(clips, 3, frames, 64, 64)
            assert_close(compiled(clip)[-1], backbone(clip)[-1], 1e-5, f"{clips} clips of {frames} frames")


def test_conditional_convolutions_see_time_too():
    video = TimmHOCPBackbone("tf_efficientnet_cc_b0_4e", temporal_init="last").eval()
    layers = [video.net.get_submodule(name) for name in video.transducted]
    assert sum(isinstance(layer, CondConv2d) for layer in layers) == 8
    assert len(layers) == 16
    image = TimmHOCPBackbone("tf_efficientnet_cc_b0_4e", temporal_kernel=1).eval()
    image.load_state_dict({key: t for key, t in video.state_dict().items() if not key.endswith("factors.t")})
    clip = torch.randn(2, 3, 3, 64, 64, dtype=torch.float64)
    video.double(), image.double()
    assert_framewise(lambda c: video(c)[-1], lambda c: image(c)[-1], clip, tolerance=1e-10)
    for layer in layers:
        nn.init.normal_(layer.factors["t"])
    later = clip.clone()
    later[0, :, 2] = torch.randn(3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before, after = video(clip)[-1], video(later)[-1]
    assert_close(after[:, :, :2], before[:, :, :2], 1e-12, "frames before the change")
    assert not torch.equal(after[0, :, 2], before[0, :, 2])
    assert_close(after[1], before[1], 1e-12, "the other clip")
    pickle.dumps(copy.deepcopy(video))


def test_under_autocast_kept_layers_give_the_lower_dtype_as_timm_does():
    video = TimmHOCPBackbone("test_convnext", rank=4).eval()
    kinds = set()
    for name in video.transducted:
        video.net.get_submodule(name).register_forward_hook(lambda layer, args, out: kinds.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        video(torch.randn(1, 3, 2, 64, 64))
    assert kinds == {torch.bfloat16}


def test_the_first_layer_stays_dense_whatever_its_channels():
    backbone = TimmHOCPBackbone("resnet18", rank=4, in_chans=6)
    assert "conv1" not in backbone.factorized
    assert len(backbone.factorized) == 16
    with pytest.raises(ValueError, match="a transformer or MLP"):
        TimmHOCPBackbone("test_vit", in_chans=6)


def test_a_rank_for_an_error_keeps_its_promise_with_any_seed_and_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))
    path = saved(lived_in("test_resnet"), tmp_path)
    options = {"checkpoint": path, "rank": "error0.6", "factorize": ["^layer1", r"^conv1\.3"], "seed": 1}
    first = TimmHOCPBackbone("test_resnet", **options)
    assert max(first.load_report.decomposed.values()) <= 0.6
    monkeypatch.setattr("hocp_mm.checkpoints.decomposition_cache.decompose", None)
    monkeypatch.setattr("hocp_mm.checkpoints.decomposition_cache.decompose_to_error", None)
    second = TimmHOCPBackbone("test_resnet", **options)
    assert all(torch.equal(first.state_dict()[key], tensor) for key, tensor in second.state_dict().items())
