"""Grad-CAM: the closed form, an independent computation, and a network that looks at one quadrant alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hocp_mm.analysis.grad_cam import GradCam, at_most, find_layer
from hocp_mm.errors import HOCPError
from tests.material.tiny_configs import noise, tiny_config, tiny_network


class Toy(nn.Module):
    """Features of each frame by one convolution, a mean over space, one linear layer."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv3d(3, channels, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU(inplace=True))
        self.head = nn.Linear(channels, 2)

    def forward(self, clips: Tensor, mode: str = "tensor") -> Tensor:
        return self.head(self.backbone(clips).mean((3, 4)).transpose(1, 2))


def frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def tiny(neck: bool = False, **backbone: Any) -> tuple[nn.Module, Tensor]:
    cfg = tiny_config()
    cfg.model.backbone.update(backbone)
    if neck:
        cfg.model.neck = {"type": "hocp_mm.HOCPTemporalNeck", "hidden_channels": 8, "rank": 8}
    model = tiny_network(cfg)
    if neck:
        with torch.no_grad():
            for block in model.neck.blocks:
                block.context.weights.normal_()
    clips = [torch.from_numpy(np.stack(noise(8, (64, 64), seed))).permute(3, 0, 1, 2) for seed in range(2)]
    return frozen(model), model.data_preprocessor({"inputs": clips})["inputs"]


def test_behind_a_linear_head_a_map_is_the_weighted_features_and_sums_to_the_prediction():
    torch.manual_seed(0)
    toy, clips = frozen(Toy()), torch.randn(2, 3, 5, 8, 8)
    pred, maps = GradCam(toy, find_layer(toy, clips[:1]))(clips)
    features = toy.backbone(clips)
    torch.testing.assert_close(maps, torch.einsum("oc,ncthw->ntohw", toy.head.weight, features) / 64)
    torch.testing.assert_close(pred, toy(clips))
    torch.testing.assert_close(maps.sum((-2, -1)), pred - toy.head.bias)


@pytest.mark.parametrize("neck", [False, True], ids=["backbone and head", "with a temporal neck"])
def test_equals_a_computation_that_hooks_nothing(neck: bool):
    """The rest of the network is run by hand on features that want gradients."""
    model, clips = tiny(neck)
    pred, maps = GradCam(model, find_layer(model, clips[:1]))(clips)
    features = model.backbone(clips)[-1].detach().requires_grad_()
    stages = (features,) if model.neck is None else model.neck((features,))
    own = model.head(stages, clips.shape[2])
    torch.testing.assert_close(pred, own.detach())
    for index in range(2):
        (gradient,) = torch.autograd.grad(own[..., index].sum(), features, retain_graph=True)
        expected = (gradient.mean((3, 4), keepdim=True) * features).sum(1)
        torch.testing.assert_close(maps[:, :, index], expected.detach())
    assert maps.abs().max() > 1e-3
    assert all(parameter.grad is None for parameter in model.parameters())


class Masked(Toy):
    """A network that sees the upper left quarter of a frame alone."""

    def forward(self, clips: Tensor, mode: str = "tensor") -> Tensor:
        seen = torch.zeros_like(clips)
        seen[..., :4, :4] = clips[..., :4, :4]
        return super().forward(seen)


def test_a_planted_patch_lights_its_own_place():
    torch.manual_seed(1)
    model = frozen(Masked())
    with torch.no_grad():
        model.backbone[0].bias.zero_()
    _, maps = GradCam(model, "backbone.1")(torch.randn(1, 3, 3, 12, 12))
    lit = maps.abs().amax((0, 1, 2))
    assert lit[:4, :4].max() > 0
    assert not lit[5:].any()  # a kernel of three sees one pixel beyond
    assert not lit[:, 5:].any()


def test_layers_by_pattern_and_features_behind_a_pool():
    model, clips = tiny()
    assert find_layer(model, clips[:1]) == "backbone"
    name = find_layer(model, clips[:1], r"backbone\.net\.layer2")
    assert name == "backbone.net.layer2"
    pred, maps = GradCam(model, name)(clips)
    assert maps.shape[:3] == (2, 8, 2)
    torch.testing.assert_close(pred, model(clips))
    with pytest.raises(HOCPError, match="--layer: must match a layer that gives a feature map, got 'nothing'"):
        find_layer(model, clips[:1], "nothing")
    with pytest.raises(HOCPError, match="--layer: must be a regular expression"):
        find_layer(model, clips[:1], "(")
    pooled, clips = tiny(out_indices=[], head_features=True)
    name = find_layer(pooled, clips[:1])
    assert name != "backbone"  # its map has one cell
    assert GradCam(pooled, name)(clips)[1].shape[-1] > 1


def test_smaller_maps_keep_their_sums():
    maps = torch.randn(2, 3, 2, 28, 28)
    small = at_most(maps, 14)
    assert small.shape == (2, 3, 2, 14, 14)
    torch.testing.assert_close(small.sum((-2, -1)), maps.sum((-2, -1)), atol=1e-4, rtol=1e-4)
    assert at_most(maps, 28) is maps


class Beside(Toy):
    """A network with a layer that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Identity()

    def forward(self, clips: Tensor, mode: str = "tensor") -> Tensor:
        self.beside(clips)
        return super().forward(clips)


def test_a_layer_that_does_not_count_is_refused():
    with pytest.raises(HOCPError, match="--layer: the predictions must depend on what the layer gives"):
        GradCam(frozen(Beside()), "beside")(torch.randn(1, 3, 2, 8, 8))
