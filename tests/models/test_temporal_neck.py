"""The temporal neck: identity at first, then an eye for motion."""

import pytest
import torch

from hocp_mm.checkpoints import load_image_weights_
from hocp_mm.models import HOCPTemporalNeck
from hocp_mm.registry import MODELS


def build(**options) -> HOCPTemporalNeck:
    return MODELS.build(
        {"type": "hocp_mm.HOCPTemporalNeck", "in_channels": 12, "hidden_channels": 8, "rank": 6, **options}
    )


@pytest.mark.parametrize("frames", [1, 4, 20])
@pytest.mark.parametrize("training", [True, False])
def test_the_neck_starts_as_the_identity(frames, training):
    neck = build(dilations=(1, 4)).train(training)
    feats = (torch.randn(2, 6, frames, 4, 4), torch.randn(2, 12, frames, 2, 2))
    out = neck(feats)
    assert out[0] is feats[0]
    assert torch.equal(out[1], feats[1])


def test_the_first_convolution_starts_blind_to_what_stands_still():
    block = build().blocks[0]
    still = torch.randn(2, 12, 1, 3, 3).expand(-1, -1, 7, -1, -1)
    assert block.difference(still).abs().max() < 1e-5
    assert block.difference(torch.randn(2, 12, 7, 3, 3)).abs().max() > 0.1


def test_gradients_reach_every_parameter_after_the_first_step():
    neck = build()
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
    feats = torch.randn(2, 12, 6, 2, 2)
    for _ in range(2):  # weight zero lets only itself train in the first step
        optimizer.zero_grad()
        (neck((feats,))[0] * torch.randn_like(feats)).sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_an_unknown_neck_stays_at_its_start_when_weights_are_transferred():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "neck": build()})
    state = {f"backbone.{name}": tensor for name, tensor in torch.nn.Linear(2, 2).state_dict().items()}
    report = load_image_weights_(model, state, source="a test")
    assert report.complete
    assert set(report.added) == {f"neck.{name}" for name in model["neck"].state_dict()}
    trained = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    assert not load_image_weights_(model, trained, source="a test").added


@pytest.mark.parametrize(
    "options", [{"difference_kernel": 1}, {"difference_kernel": 4}, {"context_kernel": 2}], ids=str
)
def test_even_or_short_kernels_are_refused(options):
    with pytest.raises(ValueError, match="kernels must be odd, difference_kernel at least 3"):
        build(**options)
