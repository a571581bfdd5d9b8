"""Integrated gradients over frames: completeness, and a frame that alone moves."""

import pytest
import torch
from torch import Tensor, nn

from hocp_mm.analysis.moving_frames import moving_frames
from tests.analysis.test_receptive_field import network


class Squares(nn.Module):
    """Of which the integral is known: brightness of a frame, squared, weighs in by the number of the frame."""

    def forward(self, clips: Tensor, mode: str) -> Tensor:
        light = clips.mean((1, 3, 4))  # [N, T]
        weights = torch.arange(1.0, clips.shape[2] + 1)
        out = (light.square() * weights).sum(1, keepdim=True).expand_as(light)
        return torch.stack([out, 3 * light], dim=-1)


def test_the_integral_of_squares_is_exact_at_midpoints():
    light = torch.tensor([0.0, 2.0, 1.0])
    clip = light.reshape(1, 3, 1, 1).expand(3, 3, 4, 4).contiguous()
    found = moving_frames(Squares(), clip, 1, steps=5, batch_size=2)
    torch.testing.assert_close(found.attributions[:, 0], torch.tensor([1.0, 2, 3]) * (light**2 - 1))  # the mean is 1
    torch.testing.assert_close(found.attributions[:, 1], torch.tensor([0.0, 3, 0]))
    torch.testing.assert_close(found.residual, torch.zeros(2), atol=1e-5, rtol=0)
    assert found.steps == 5


class Step(nn.Module):
    """Of which too few points know too little: nothing happens but near the end of the way."""

    def forward(self, clips: Tensor, mode: str) -> Tensor:
        light = (clips.mean((1, 3, 4)) - 0.9).relu()
        return torch.stack([light, light], dim=-1)


def test_more_points_follow_where_the_first_leave_too_much():
    clip = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1).expand(3, 2, 4, 4).contiguous()
    found = moving_frames(Step(), clip, 1, steps=3)
    assert found.steps == 9
    # The middle of the last of nine steps alone, 17/18, lies beyond 0.9.
    torch.testing.assert_close(found.attributions[:, 0], torch.tensor([0.0, 1 / 9]))


@pytest.mark.parametrize("words", [{}, {"temporal_init": "last", "motion": {"rank": 4}}], ids=["central", "causal"])
def test_attributions_are_complete(words: dict):
    model = network(words)
    torch.manual_seed(3)
    clip = torch.randn(3, 6, 32, 32)
    found = moving_frames(model, clip, 3, steps=200)
    assert found.share_left < 0.05
    assert found.share_left < moving_frames(model, clip, 3, steps=1).share_left
    torch.testing.assert_close(found.prediction, model(clip[None], mode="tensor")[0, 3])
    if words:
        assert not found.attributions[4:].any()  # the future


def test_a_still_clip_has_nothing_to_attribute_and_frames_are_checked():
    model = network({})
    clip = torch.randn(3, 1, 32, 32).expand(3, 4, 32, 32)
    found = moving_frames(model, clip, 0, steps=2)
    assert found.attributions.abs().max() < 1e-5
    with pytest.raises(ValueError, match="frame must be one of 4, got 4"):
        moving_frames(model, clip, 4)
    with pytest.raises(ValueError, match="must be positive"):
        moving_frames(model, clip, 0, steps=0)
