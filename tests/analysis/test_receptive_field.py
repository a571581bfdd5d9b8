"""What the kernels say of the receptive field is what gradients measure."""

from typing import Any

import pytest
import torch
from torch import nn

from hocp_mm.analysis.receptive_field import (
    Reach,
    frame_gradients,
    own_reach,
    reach_of_gradients,
    reach_of_kernels,
    shares,
)
from hocp_mm.registry import MODELS

CASES: dict[str, dict[str, Any]] = {
    "central": {"backbone": {}},
    "causal": {"backbone": {"temporal_init": "last"}},
    "with motion": {"backbone": {"motion": {"rank": 4}}},
    "causal with motion": {"backbone": {"temporal_init": "last", "motion": {"rank": 4}}},
    "five taps": {"backbone": {"temporal_kernel": 5, "temporal_layers": ["layer1.0.conv1"]}},
    "an image network": {"backbone": {"temporal_kernel": 1}},
    "depthwise": {"backbone": {"model_name": "test_efficientnet"}},
    "a dilated neck": {"backbone": {"temporal_kernel": 1}, "neck": {"dilations": (1, 2), "context_kernel": 5}},
    "a causal neck": {
        "backbone": {"temporal_init": "last"},
        "neck": {"causal": True, "dilations": (2,), "context_kernel": 3},
    },
}
PLANNED = {"an image network": Reach(0, 0), "five taps": Reach(2, 2), "a dilated neck": Reach(9, 9)}


def network(backbone: dict[str, Any], neck: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    words = {"type": "hocp_mm.TimmHOCPBackbone", "model_name": "test_resnet", "rank": 4, **backbone}
    model = {"type": "hocp_mm.AffectRecognizer", "backbone": words, "head": {"type": "hocp_mm.AffectHead"}}
    if neck is not None:
        model["neck"] = {"type": "hocp_mm.HOCPTemporalNeck", "hidden_channels": 8, "rank": 8, **neck}
    built = MODELS.build(model).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("factors.t") or "motion.factors.out" in name or "context.weights" in name:
                parameter.normal_()
            elif "bn" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)  # timm begins with residual branches of nothing
    return built.requires_grad_(False)


@pytest.mark.parametrize("case", CASES)
def test_kernels_and_gradients_agree(case: str):
    model = network(**CASES[case])
    said = reach_of_kernels(model, torch.zeros(1, 3, 4, 32, 32))
    assert reach_of_gradients(model, said) == said
    assert said == PLANNED.get(case, said)
    assert (said.future == 0) == ("causal" in case or "image" in case)
    if case == "a dilated neck":
        assert said.frames == model.neck.receptive_field


def test_branches_keep_the_longer_one_and_do_not_add():
    """Layers of a residual block follow each other; its shortcut, which sees one tap less, does not."""
    model = network({"temporal_layers": ["layer1", "layer2.0.conv1"]})
    layers = [module for module in model.modules() if own_reach(module) is not None]
    said = reach_of_kernels(model, torch.zeros(1, 3, 2, 32, 32))
    assert said == Reach(len(layers), len(layers)) == reach_of_gradients(model, said)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long = nn.Conv3d(3, 3, (5, 1, 1), padding=(2, 0, 0))
            self.short = nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))

        def forward(self, clips: torch.Tensor, mode: str) -> torch.Tensor:
            return (self.long(clips) + self.short(clips)).mean((3, 4)).transpose(1, 2)[..., :2]

    both = Branches()
    assert reach_of_kernels(both, torch.zeros(1, 3, 4, 4, 4)) == Reach(2, 2) == reach_of_gradients(both, Reach(2, 2))


def test_taps_that_are_zero_are_seen_by_gradients_alone():
    torch.manual_seed(0)
    words = {"type": "hocp_mm.TimmHOCPBackbone", "model_name": "test_resnet", "rank": 4}
    cfg = {"type": "hocp_mm.AffectRecognizer", "backbone": words, "head": {"type": "hocp_mm.AffectHead"}}
    model = MODELS.build(cfg).eval().requires_grad_(False)
    said = reach_of_kernels(model, torch.zeros(1, 3, 4, 32, 32))
    assert said.frames > 1
    assert reach_of_gradients(model, said) == Reach(0, 0)


def test_strides_in_time_are_not_guessed():
    with pytest.raises(NotImplementedError, match="steps over frames"):
        own_reach(nn.Conv3d(3, 3, 3, stride=2))


def test_energies_of_frames():
    model = network({"temporal_init": "last"})
    energy = frame_gradients(model, torch.randn(2, 3, 6, 32, 32), 3)
    assert energy.shape == (2, 2, 6)
    assert not energy[..., 4:].any()  # causal
    torch.testing.assert_close(shares(energy).sum(-1), torch.ones(2, 2))
    assert not shares(torch.zeros(3)).any()
