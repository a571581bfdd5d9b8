"""Stock MMAction2 backbones filled from 2-D networks, with the 2-D networks themselves as oracles."""

import copy
import json
from functools import cache
from typing import Any

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hocp_mm import compat
from hocp_mm.checkpoints.stock import load_stock_weights_, stock_names
from hocp_mm.errors import CheckpointError
from hocp_mm.functional import dense_kernel
from hocp_mm.layers import HOCPConv3d, factorize_
from tests.laws import assert_close, assert_framewise, random_kernel

compat.apply()

from mmaction.registry import MODELS  # noqa: E402 - after the work-arounds

# Nothing strides over or pools time, so that frames stay apart.
FRAMEWISE: dict[str, Any] = {
    "type": "ResNet3d", "depth": 18, "pretrained": None, "conv1_stride_t": 1, "pool1_stride_t": 1, "with_pool2": False,
}  # fmt: skip
SLOWFAST: dict[str, Any] = {
    "type": "ResNet3dSlowFast", "pretrained": None, "resample_rate": 4, "speed_ratio": 4, "channel_ratio": 8,
    "slow_pathway": {
        "type": "resnet3d", "pretrained": None, "lateral": True, "conv1_kernel": (1, 7, 7),
        "conv1_stride_t": 1, "pool1_stride_t": 1, "with_pool2": False, "inflate": (0, 0, 1, 1),
    },
    "fast_pathway": {
        "type": "resnet3d", "pretrained": None, "lateral": False, "base_channels": 8,
        "conv1_kernel": (5, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1, "with_pool2": False,
    },
}  # fmt: skip


def hocp(rank: int) -> dict[str, Any]:
    return {"type": "hocp_mm.HOCPConv3d", "rank": rank}


def build(cfg: dict[str, Any], **changes: Any) -> Any:
    """Build a stock network as a run does: ``init_weights`` first, weights afterwards."""
    return copy.deepcopy(_built(json.dumps({**cfg, **changes})))


@cache
def _built(cfg: str) -> Any:
    with DefaultScope.overwrite_default_scope("mmaction"):
        model = MODELS.build(json.loads(cfg))
    model.init_weights()
    model.eval()  # returns None
    return model


def slowfast(conv_cfg: dict[str, Any], depth: int = 50) -> Any:
    paths = {
        name: {**SLOWFAST[name], "conv_cfg": conv_cfg, "depth": depth} for name in ("slow_pathway", "fast_pathway")
    }
    return build(SLOWFAST, **paths)


def lived_in(net: Any) -> Any:
    """Give norms statistics and scales as training leaves them; fresh ones hide a mix-up."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    net.eval()  # MMAction2's returns None
    return net


def image_network(name: str = "resnet18") -> Any:
    return copy.deepcopy(_image_network(name))


@cache
def _image_network(name: str) -> Any:
    torch.manual_seed(0)
    # Most of a VGG is its classifier; a small one does here.
    smaller = {"mlp_ratio": 0.01, "num_classes": 5} if name.startswith("vgg") else {}
    return lived_in(timm.create_model(name, **smaller))


@torch.no_grad()
def make_kernels_rank_one_(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            taps = (module.kernel_size[0], module.kernel_size[1])
            kernel = random_kernel(module.out_channels, module.in_channels, taps, rank=1, dtype=torch.float32)
            module.weight.mul_(0).add_(dense_kernel(kernel) * (2 / module.weight[0].numel()) ** 0.5)


def assert_equals_image_network(video: nn.Module, image: Any, tolerance: float = 1e-5) -> None:
    """Every frame, the first and the last included, has the features that timm computes for it."""
    __tracebackhide__ = True
    clip = torch.randn(1, 3, 3, 64, 64)
    assert_framewise(video, lambda frame: image.forward_features(frame[:, :, 0]).unsqueeze(2), clip, tolerance)


@pytest.mark.parametrize("depth", [18, 50])
def test_a_dense_resnet3d_equals_the_timm_network_on_every_frame(depth):
    image, video = image_network(f"resnet{depth}"), build(FRAMEWISE, depth=depth)
    report = load_stock_weights_(video, image.state_dict(), source="timm", classifier=["fc"])
    assert len(report.inflated) == sum(isinstance(m, nn.Conv2d) for m in image.modules())
    assert report.classifier == ["fc.weight", "fc.bias"]
    assert set(report.copied) | {f"{name}.weight" for name in report.inflated} == set(video.state_dict())
    assert_equals_image_network(video, image)


@pytest.mark.parametrize(
    "settings",
    [{}, {"inflate": (0, 1, 0, 1)}, {"inflate": ((1, 0), (0, 1), (1, 1), (0, 0)), "conv1_kernel": (5, 7, 7)}],
    ids=["inflated everywhere (R(2+1)D's twin)", "by stage", "by block (I3D's pattern) with a long stem"],
)
def test_an_hocp_resnet3d_equals_the_timm_network_whose_kernels_have_its_rank(settings):
    image = image_network()
    make_kernels_rank_one_(image)
    video = build(FRAMEWISE, conv_cfg=hocp(1), **settings)
    report = load_stock_weights_(video, image.state_dict(), source="timm")
    assert max(report.decomposed.values()) < 1e-5
    assert len(report.decomposed) == len(report.transducted) == 20
    assert_equals_image_network(video, image)
    with torch.no_grad():
        clip = torch.randn(1, 3, 3, 64, 64)
        assert_framewise(video, video, clip, 1e-6)


def test_slowonly_50_equals_the_hocp_image_network():
    image = image_network("resnet50")
    factorize_(image, 2, layers=".", fit=False)
    video = build({**FRAMEWISE, "type": "ResNet3dSlowOnly"}, depth=50, lateral=False, conv_cfg=hocp(2))
    report = load_stock_weights_(video, image.state_dict(), source="static")
    assert report.complete
    assert len(report.transducted) == 53
    assert_equals_image_network(video, image)


def test_the_network_of_fitted_kernels_is_what_runs_when_ranks_are_not_full():
    image, video = image_network(), build(FRAMEWISE, conv_cfg=hocp(3))
    report = load_stock_weights_(video, image.state_dict(), source="timm")
    assert min(report.decomposed.values()) > 0.3  # random kernels have no low rank
    names = {f"{name}.conv": name for name, m in image.named_modules() if isinstance(m, nn.Conv2d)}
    names = {old.replace("downsample.0.conv", "downsample.conv"): name for old, name in names.items()}
    with torch.no_grad():
        for name, layer in video.named_modules():
            if isinstance(layer, HOCPConv3d):
                kernel = dense_kernel(layer.kernel())
                image.get_submodule(names[name]).weight.copy_(kernel[:, :, kernel.shape[2] // 2])
    assert_equals_image_network(video, image)


def test_a_static_hocp_network_of_ours_fills_a_stock_one():
    image = image_network()
    factorize_(image, 2, layers=".", fit=False)
    video = build(FRAMEWISE, conv_cfg=hocp(2))
    state = {f"backbone.net.{name}": tensor for name, tensor in image.state_dict().items()}
    report = load_stock_weights_(video, {**state, "head.hidden.weight": torch.ones(2)}, source="static.pth")
    assert not report.decomposed
    assert len(report.transducted) == 20
    assert "head.hidden.weight" in report.classifier
    assert_equals_image_network(video, image)


@pytest.mark.parametrize("rank", [None, 2], ids=["dense", "HO-CP"])
def test_a_2d_recogniser_of_mmaction2_fills_a_3d_backbone(rank):
    torch.manual_seed(0)
    flat = {"type": "ResNet", "depth": 18, "pretrained": None}
    image = build(flat) if rank is None else build(flat, conv_cfg={"type": "hocp_mm.HOCPConv2d", "rank": rank})
    video = build(FRAMEWISE) if rank is None else build(FRAMEWISE, conv_cfg=hocp(rank))
    state = {f"backbone.{name}": tensor for name, tensor in lived_in(image).state_dict().items()}
    state["cls_head.fc_cls.weight"] = torch.ones(5, 512)
    report = load_stock_weights_(video, state, source="tsn.pth")
    assert report.classifier == ["cls_head.fc_cls.weight"]
    assert not report.decomposed
    clip = torch.randn(1, 3, 3, 64, 64)
    assert_framewise(video, lambda frame: image(frame[:, :, 0]).unsqueeze(2), clip, 1e-5)


@pytest.mark.parametrize("conv_cfg", [{"type": "Conv3d"}, hocp(2)], ids=["dense", "HO-CP"])
def test_slowfast_starts_with_the_image_network_in_its_slow_path(conv_cfg):
    image = image_network("resnet50")
    if "rank" in conv_cfg:
        factorize_(image, conv_cfg["rank"], layers=".", fit=False)
    video = slowfast(conv_cfg)
    before = copy.deepcopy(video.state_dict())
    report = load_stock_weights_(video, image.state_dict(), source="timm")
    # Kept: all of the fast path and the four laterals, and nothing else.
    assert set(report.kept) == {name for name in before if name.startswith("fast_path.") or "_lateral." in name}
    assert all(torch.equal(before[name], video.state_dict()[name]) for name in report.kept)
    # Padded: the two convolutions at the start of every stage, by twice an eighth of the channels.
    assert report.padded == [
        f"slow_path.layer{stage}.0.{name}.conv: {width} -> {width * 5 // 4} input channels"
        for stage, width in enumerate((64, 256, 512, 1024), 1)
        for name in ("conv1", "downsample")
    ]
    assert "padded: slow_path.layer1.0.conv1.conv: 64 -> 80 input channels, " in str(report)
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        slow, _ = video(clip)
        for t in range(2):
            assert_close(slow[:, :, t], image.forward_features(clip[:, :, 4 * t]), 1e-5, f"slow frame {t}")


def test_laterals_train_from_the_zeros_of_a_small_slowfast_whose_widened_shortcut_is_kept():
    image, video = image_network(), slowfast(hocp(2), depth=18)
    with pytest.raises(CheckpointError, match=r"10 missing \(slow_path\.layer1\.0\.downsample\.conv\.weights"):
        load_stock_weights_(video, image.state_dict(), source="timm")
    report = load_stock_weights_(video, image.state_dict(), source="timm", keep=r"layer1\.0\.downsample")
    assert "slow_path.layer1.0.downsample.conv.factors.t" in report.kept
    layer = video.slow_path.layer2[0].conv1.conv
    assert layer.factors["in"][64:].abs().max() == 0
    slow, _ = video(torch.randn(1, 3, 8, 32, 32))
    slow.square().sum().backward()
    assert layer.factors["in"].grad[64:].abs().max() > 0


def test_a_slowfast_checkpoint_fills_both_paths():
    trained, video = slowfast({"type": "Conv3d"}, depth=18), slowfast({"type": "Conv3d"}, depth=18)
    report = load_stock_weights_(video, {f"backbone.{n}": t for n, t in trained.state_dict().items()}, source="k400")
    assert not report.kept
    assert set(report.copied) == set(trained.state_dict())
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(video(clip), trained(clip), strict=True))


def vgg_names(style: str) -> tuple[dict[str, torch.Tensor], nn.Module]:
    image = image_network("vgg11")
    state = dict(image.state_dict())
    if style == "torchvision":
        heads = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
        for ours, theirs in heads.items():
            for leaf in ("weight", "bias"):
                state[f"{theirs}.{leaf}"] = state.pop(f"{ours}.{leaf}")
    return state, image


C3D_LAYERS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
C3D: dict[str, Any] = {"type": "C3D", "pretrained": None, "out_dim": 512}


def assert_convolves_as_vgg(video: nn.Module, image: Any) -> None:
    """C3D pools time: its layers are compared one by one, without pooling."""
    blocks: list[list[nn.Module]] = []
    for module in image.features:
        if isinstance(module, nn.Conv2d):
            blocks.append([])
        if not isinstance(module, nn.MaxPool2d):
            blocks[-1].append(module)
    clip = torch.randn(1, 3, 3, 16, 16)
    with torch.no_grad():
        for name, block in zip(C3D_LAYERS, blocks, strict=True):
            layer = nn.Sequential(*block)
            assert_framewise(video.get_submodule(name), lambda x: layer(x[:, :, 0]).unsqueeze(2), clip, 1e-5)  # noqa: B023
            clip = video.get_submodule(name)(clip)


@pytest.mark.parametrize("style", ["timm", "torchvision"])
def test_the_convolutions_of_c3d_are_those_of_vgg11(style):
    state, image = vgg_names(style)
    video = build(C3D)
    before = copy.deepcopy(video.state_dict())
    report = load_stock_weights_(video, state, source=style)
    assert report.kept == ["fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"]
    assert all(torch.equal(before[name], video.state_dict()[name]) for name in report.kept)
    assert len(report.classifier) == 6
    assert_convolves_as_vgg(video, image)


def test_norms_of_a_vgg_go_to_the_convolution_before_them_and_swallow_its_bias():
    image = image_network("vgg11_bn")
    for module in image.features:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias)
    video = build(C3D, norm_cfg={"type": "BN3d"})
    assert load_stock_weights_(video, image.state_dict(), source="timm").complete
    assert_convolves_as_vgg(video, image)
    with pytest.raises(CheckpointError, match=r"40 unexpected \(conv1a\.bn\.weight"):
        load_stock_weights_(build(C3D), image.state_dict(), source="vgg11_bn")


def test_c3d_takes_hocp_kernels_and_names_a_vgg_of_another_depth():
    state, _ = vgg_names("timm")
    video = build(C3D, conv_cfg=hocp(2))
    report = load_stock_weights_(video, state, source="timm")
    assert list(report.decomposed) == [f"{name}.conv" for name in C3D_LAYERS]
    deeper = image_network("vgg13").state_dict()
    with pytest.raises(CheckpointError, match=r"C3D has 8 convolutions, as VGG-11, got 10 \(vgg13\)"):
        load_stock_weights_(video, deeper, source="vgg13")


def test_more_can_be_kept_than_what_has_no_twin():
    image, video = image_network("resnet50"), slowfast({"type": "Conv3d"})
    before = copy.deepcopy(video.state_dict())
    report = load_stock_weights_(video, image.state_dict(), source="timm", keep=r"^slow_path\.layer4\.")
    kept = {name for name in before if name.startswith("slow_path.layer4.")}
    assert kept < set(report.kept)
    assert all(torch.equal(before[name], video.state_dict()[name]) for name in kept)


def test_non_local_blocks_are_kept_only_when_that_is_said():
    image = image_network()
    video = build(FRAMEWISE, non_local=((0, 0), (0, 1), (0, 0), (0, 0)), non_local_cfg={"norm_cfg": {"type": "BN3d"}})
    with pytest.raises(CheckpointError, match=r"missing \(layer2\.1\.non_local_block\."):
        load_stock_weights_(video, image.state_dict(), source="timm")
    report = load_stock_weights_(video, image.state_dict(), source="timm", keep="non_local_block")
    assert report.kept
    assert all(name.startswith("layer2.1.non_local_block.") for name in report.kept)
    # What they add to the identity is scaled by this norm, which MMAction2 sets to one.
    nn.init.zeros_(video.layer2[1].non_local_block.conv_out.bn.weight)
    assert_equals_image_network(video, image)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3)


REFUSALS: dict[str, tuple[Any, str, str]] = {
    "an unknown structure": (Plain, "resnet18", r"must be built as ResNet3d.* got Plain with stem"),
    "other convolutions": (
        lambda: build({"type": "ResNet2Plus1d", "depth": 18, "pretrained": None, "pretrained2d": False,
                       "conv_cfg": {"type": "Conv2plus1d"}}),
        "resnet18", r"with HO-CP or dense convolutions .* got ResNet2Plus1d",
    ),
    "a deeper network": (lambda: build(FRAMEWISE), "resnet34", r"96 unexpected \(layer1\.2\.conv1\.conv\.weight"),
    "a shallower network": (lambda: build(FRAMEWISE, depth=34), "resnet18", r"80 missing \(layer1\.2\.conv1\.conv\."),
    "another kind of block": (lambda: build(FRAMEWISE), "resnet50", r"mismatched \(layer1\.0\.conv1\.conv\.weight: "),
    "a stem of another kind": (lambda: build(FRAMEWISE), "resnet18d", r"missing \(conv1\.conv\.weight"),
    "no ResNet at all": (lambda: build(FRAMEWISE), "vgg11", r"unexpected \(features\.0\.weight"),
    "a ResNet for C3D": (lambda: build(C3D), "resnet18", r"16 missing \(conv1a\.conv\.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_weights_that_do_not_fit_are_refused_and_the_backbone_stays_as_it_was(case):
    make, name, message = REFUSALS[case]
    backbone = make()
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_stock_weights_(backbone, image_network(name).state_dict(), source=name)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


C3D_PARTS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
VGG_NAMES = {
    "a word": "features.a.weight",
    "no number": "features.weight",
    "a long number": f"features.{'9' * 900}.weight",
    "no leaf": "features.3",
    "before the first": "features.-1.bias",
    "a raised two": "features.²x.bias",
    "a digit of another script": "features.٣.bias",
    "nothing": "features..bias",
}


def c3d():
    backbone = nn.Module()
    for part in C3D_PARTS:
        setattr(backbone, part, nn.Module())
        getattr(backbone, part).conv = nn.Conv3d(3, 3, 3)
    return backbone


@pytest.mark.parametrize("case", list(VGG_NAMES))
def test_names_that_are_none_of_a_vgg_stay(case):
    good = {f"features.{number}.weight": torch.ones(3, 3, 3, 3) for number in range(8)}
    name = VGG_NAMES[case]
    renamed = stock_names(c3d(), {**good, name: torch.ones(3, 3, 3, 3)}, source="f.pth")
    assert list(renamed) == [*(f"{part}.conv.weight" for part in C3D_PARTS), name]


def test_a_layer_before_the_first_convolution_belongs_to_none():
    good = {f"features.{number}.weight": torch.ones(3, 3, 3, 3) for number in range(1, 9)}
    assert "features.0.bias" in stock_names(c3d(), {**good, "features.0.bias": torch.ones(3)}, source="f.pth")


def test_a_bias_of_another_size_than_its_mean_is_told():
    good = {f"features.{2 * number}.weight": torch.ones(3, 3, 3, 3) for number in range(8)}
    odd = {"features.0.bias": torch.ones(7), "features.1.running_mean": torch.ones(3)}
    backbone = c3d()
    backbone.conv1a.conv = nn.Conv3d(3, 3, 3, bias=False)
    assert len(stock_names(backbone, {**good, **odd}, source="f.pth")["conv1a.conv.bias"]) == 7


@pytest.mark.parametrize("names", [("features.1.bias", "features.01.bias"), ("conv1a.conv.bias", "features.0.bias")])
def test_two_tensors_of_one_name_of_a_stock_backbone_are_refused(names):
    good = {f"features.{number}.weight": torch.ones(3, 3, 3, 3) for number in (0, 2, 4, 6, 8, 10, 12, 14)}
    with pytest.raises(CheckpointError, match=r"f\.pth: tensors must have names of their own, got two for conv1a\."):
        stock_names(c3d(), {**good, **{name: torch.ones(3) for name in names}}, source="f.pth")
