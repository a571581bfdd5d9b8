"""`AffectHead` keeps time, pools space and hands labels to the loss unchanged."""

import pytest
import torch
from torch import Tensor, nn

from hocp_mm.models.heads import AffectHead
from hocp_mm.registry import MODELS
from hocp_mm.structures import AffectDataSample


def features(frames: int = 4, channels: int = 6) -> Tensor:
    return torch.randn(2, channels, frames, 3, 3, generator=torch.Generator().manual_seed(0))


def sample(labels: Tensor) -> AffectDataSample:
    inds = list(range(len(labels)))
    return AffectDataSample.from_clip(labels, video="a", frame_inds=inds, num_frames=len(labels), fps=25)


class Recorder(nn.Module):
    """A loss that keeps what it gets."""

    def forward(self, pred: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Keep the arguments."""
        self.seen = pred, target, valid
        return {"loss_affect": pred.sum()}


def test_prediction_is_a_linear_map_of_the_spatial_mean_of_each_frame() -> None:
    head, feats = AffectHead(6), features()
    expected = feats.mean((3, 4)).transpose(1, 2) @ head.regress.weight.T + head.regress.bias
    torch.testing.assert_close(head((torch.zeros(0), feats)), expected)
    torch.testing.assert_close(head(feats), expected)


def test_each_frame_is_predicted_alone() -> None:
    head, feats = AffectHead(6, hidden_channels=5, dropout=0.5).eval(), features()
    single = torch.cat([head(feats[:, :, t : t + 1]) for t in range(4)], dim=1)
    torch.testing.assert_close(head(feats), single)


def test_first_predictions_are_near_neutral() -> None:
    head = AffectHead(512)
    assert (head.regress.bias == 0).all()
    assert 0.005 < head.regress.weight.std() < 0.02


def test_temporal_stride_is_undone_by_linear_interpolation() -> None:
    head = AffectHead(1)
    nn.init.ones_(head.regress.weight)
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1)
    pred = head.predict(ramp, num_frames=8)[0, :, 0]
    # Output t lies at input (t + 1/2) / 2 - 1/2, held at both ends.
    torch.testing.assert_close(pred, torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))
    assert head.predict(ramp, num_frames=4)[0, :, 0].tolist() == [0, 1, 2, 3]


def test_labels_reach_the_loss_with_their_fraction() -> None:
    head = AffectHead(6)
    head.loss_module = Recorder()
    labels = torch.full((4, 2), 0.37)
    labels[:, 1] = -0.82
    head.loss((features(),), [sample(labels), sample(labels)])
    pred, target, valid = head.loss_module.seen
    assert pred.shape == target.shape == (2, 4, 2)
    assert torch.equal(target, torch.stack([labels, labels]))
    assert valid.shape == (2, 4)


def test_loss_interpolates_to_the_labels() -> None:
    head = AffectHead(6)
    losses = head.loss((features(frames=2),), [sample(torch.randn(8, 2)), sample(torch.randn(8, 2))])
    losses["loss_affect"].backward()
    assert head.regress.weight.grad is not None
    assert head.regress.weight.grad.abs().sum() > 0


def test_built_by_name_with_a_loss_of_choice() -> None:
    head = MODELS.build(
        {"type": "hocp_mm.AffectHead", "in_channels": 6, "loss": {"type": "hocp_mm.AffectLoss", "terms": ["ccc"]}}
    )
    assert head.loss_module.terms == ("ccc",)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be \[N, 5, T, H, W\], got \(2, 6, 4, 3, 3\)"):
        AffectHead(5)(features())
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.5"):
        AffectHead(5, dropout=1.5)
    with pytest.raises(ValueError, match=r"no labels to learn from \(video b\)"):
        AffectHead(6).loss((features(),), [AffectDataSample(metainfo={"video": "b"})])
