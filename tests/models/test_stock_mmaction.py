"""Stock MMAction2 backbones with our convolution, through ``conv_cfg``; forward checks as MMAction2's own tests do."""

import copy
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from hocp_mm import compat
from hocp_mm.layers import HOCPConv3d

compat.apply()

from mmaction.registry import MODELS  # noqa: E402 - after the work-arounds

CONV: dict[str, Any] = {"type": "hocp_mm.HOCPConv3d", "rank": 16}
# What every network is told: no weights from the network, no frozen statistics, no residual branch that starts at zero.
COMMON: dict[str, Any] = {"pretrained": None, "norm_eval": False, "zero_init_residual": False, "conv_cfg": CONV}
SLOW: dict[str, Any] = {"conv1_kernel": (1, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1, "inflate": (0, 0, 1, 1)}
FAST: dict[str, Any] = {"base_channels": 8, "conv1_kernel": (5, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1}
I3D_PATTERN = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))

# Config, shape of the clip, shapes of the features.
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...], list[tuple[int, ...]]]] = {
    "ResNet3d-18": ({"type": "ResNet3d", "depth": 18, **COMMON}, (2, 3, 8, 32, 32), [(2, 512, 4, 1, 1)]),
    "ResNet3d-50, every stage": (
        {"type": "ResNet3d", "depth": 50, "out_indices": (0, 1, 2, 3), **COMMON},
        (2, 3, 8, 32, 32),
        [(2, 256, 4, 8, 8), (2, 512, 4, 4, 4), (2, 1024, 4, 2, 2), (2, 2048, 4, 1, 1)],
    ),
    "ResNet3d-18 that strides over time": (
        {"type": "ResNet3d", "depth": 18, "temporal_strides": (1, 2, 2, 2), **COMMON},
        (2, 3, 16, 32, 32),
        [(2, 512, 1, 1, 1)],
    ),
    "I3D": (
        {"type": "ResNet3d", "depth": 50, "conv1_kernel": (5, 7, 7), "conv1_stride_t": 2, "pool1_stride_t": 2,
         "inflate": I3D_PATTERN, **COMMON},
        (2, 3, 8, 32, 32),
        [(2, 2048, 1, 1, 1)],
    ),
    "I3D, inflated 3x3x3": (
        {"type": "ResNet3d", "depth": 50, "inflate_style": "3x3x3", "inflate": I3D_PATTERN, **COMMON},
        (2, 3, 4, 32, 32),
        [(2, 2048, 2, 1, 1)],
    ),
    "R(2+1)D's twin": (
        {"type": "ResNet3d", "depth": 34, "conv1_kernel": (3, 7, 7), "with_pool2": False,
         "temporal_strides": (1, 2, 2, 2), **COMMON},
        (2, 3, 8, 32, 32),
        [(2, 512, 1, 1, 1)],
    ),
    "SlowOnly-50": (
        {"type": "ResNet3dSlowOnly", "depth": 50, "lateral": False, **SLOW, **COMMON},
        (2, 3, 4, 32, 32),
        [(2, 2048, 4, 1, 1)],
    ),
    "SlowFast-50": (
        {"type": "ResNet3dSlowFast", "pretrained": None, "resample_rate": 4, "speed_ratio": 4, "channel_ratio": 8,
         "slow_pathway": {"type": "resnet3d", "depth": 50, "lateral": True, "with_pool2": False, **SLOW, **COMMON},
         "fast_pathway": {"type": "resnet3d", "depth": 50, "lateral": False, "with_pool2": False, **FAST, **COMMON}},
        (2, 3, 8, 32, 32),
        [(2, 2048, 2, 1, 1), (2, 256, 8, 1, 1)],
    ),
    "C3D": ({"type": "C3D", "pretrained": None, "conv_cfg": CONV}, (1, 3, 16, 112, 112), [(1, 4096)]),
}  # fmt: skip


def build(name: str) -> Any:
    with DefaultScope.overwrite_default_scope("mmaction"):
        return MODELS.build(copy.deepcopy(NETWORKS[name][0]))  # SlowFast writes into its config


def outputs(model: nn.Module, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
    features = model(clip)
    return features if isinstance(features, tuple) else (features,)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stock_backbone_gives_features_of_its_usual_shape_and_a_gradient_to_every_factor(name):
    torch.manual_seed(0)
    _, clip_shape, shapes = NETWORKS[name]
    model = build(name)
    dense = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    assert not dense, "a convolution does not follow conv_cfg"
    features = outputs(model, torch.randn(clip_shape))
    assert [tuple(f.shape) for f in features] == shapes
    sum((f * torch.randn_like(f)).mean() for f in features).backward()
    factors = {n: p for n, p in model.named_parameters() if ".factors." in n or n.endswith(".weights")}
    dead = [n for n, p in factors.items() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead
    assert all(torch.isfinite(p.grad).all() for p in factors.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_init_weights_keeps_the_factors(name):
    model = build(name)
    factors = {n: p.detach().clone() for n, p in model.named_parameters() if ".factors." in n or ".weights" in n}
    layers = [m for m in model.modules() if isinstance(m, HOCPConv3d)]
    assert len(factors) == 6 * len(layers) > 40
    assert all(layer.rank == 16 for layer in layers)
    model.init_weights()
    after = dict(model.named_parameters())
    assert [n for n, before in factors.items() if not torch.equal(before, after[n])] == []


@pytest.mark.parametrize("name", ["ResNet3d-18", "SlowOnly-50", "SlowFast-50"])
def test_a_stock_backbone_trains_one_step_and_round_trips(name):
    torch.manual_seed(0)
    model = build(name)
    model.init_weights()
    clip = torch.randn(NETWORKS[name][1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if ".factors." in n}
    features = outputs(model, clip)
    loss = sum((f * torch.randn_like(f)).mean() for f in features)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    after = dict(model.named_parameters())
    assert [n for n, p in before.items() if torch.equal(p, after[n])] == [], "a factor did not train"

    twin = build(name)
    twin.load_state_dict(model.state_dict(), strict=True)
    model.eval(), twin.eval()  # stock train() returns None
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(outputs(model, clip), outputs(twin, clip), strict=True))


def test_a_timm_network_is_one_line_in_a_stock_recognizer():
    from mmaction.structures import ActionDataSample

    torch.manual_seed(0)
    backbone = {"type": "hocp_mm.TimmHOCPBackbone", "model_name": "test_efficientnet", "return_tensor": True}
    head = {"type": "I3DHead", "num_classes": 3, "in_channels": 64, "dropout_ratio": 0}
    with DefaultScope.overwrite_default_scope("mmaction"):
        model = MODELS.build({"type": "Recognizer3D", "backbone": backbone, "cls_head": head})
    model.init_weights()
    clips = torch.randn(2, 1, 3, 4, 64, 64)  # [N, num_clips, C, T, H, W]
    samples = [ActionDataSample().set_gt_label(label) for label in (0, 2)]
    losses = model(clips, samples, mode="loss")
    losses["loss_cls"].backward()
    factors = [p for n, p in model.named_parameters() if n.endswith("factors.t")]
    assert factors
    assert all(p.grad is not None and p.grad.any() for p in factors)
    model.eval()
    with torch.no_grad():
        assert model(clips, samples, mode="predict")[0].pred_score.shape[-1] == 3
