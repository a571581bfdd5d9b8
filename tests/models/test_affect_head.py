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


def labelled(labels: Tensor, expression: list[int]) -> AffectDataSample:
    inds = list(range(len(labels)))
    return AffectDataSample.from_clip(
        labels, video="a", frame_inds=inds, num_frames=len(labels), fps=25, expression=expression
    )


def test_without_expressions_names_draws_and_numbers_are_as_they_were() -> None:
    torch.manual_seed(3)
    plain = AffectHead(6, hidden_channels=5)
    torch.manual_seed(3)
    head = AffectHead(6, hidden_channels=5, num_expressions=8)
    assert list(plain.state_dict()) == ["hidden.weight", "hidden.bias", "regress.weight", "regress.bias"]
    assert set(head.state_dict()) - set(plain.state_dict()) == {"classify.weight", "classify.bias"}
    assert all(torch.equal(head.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    assert torch.equal(plain(features()), head(features()))
    assert plain.predict(features(), 4).shape == (2, 4, 2)
    samples = [labelled(torch.zeros(4, 2), [0, 1, 2, 3])] * 2
    assert set(plain.loss(features(), samples)) == {"loss_affect", "rmse", "pcc", "ccc"}
    assert (plain.spare_layers, head.spare_layers) == (("classify",), ())


def test_probabilities_follow_valence_and_arousal() -> None:
    head = AffectHead(6, num_expressions=3)
    nn.init.normal_(head.classify.weight)
    pred = head.predict(features(frames=2), num_frames=4)
    assert pred.shape == (2, 4, 5)
    torch.testing.assert_close(pred[..., :2], head(features(frames=2), 4))
    torch.testing.assert_close(pred[..., 2:].sum(-1), torch.ones(2, 4))
    logits = features().mean((3, 4)).transpose(1, 2) @ head.classify.weight.T + head.classify.bias
    torch.testing.assert_close(head.predict(features(), 4)[..., 2:], logits.softmax(-1))


def test_a_fresh_head_finds_all_expressions_about_equally_likely() -> None:
    scores = AffectHead(512, num_expressions=8).predict(torch.randn(4, 512, 1, 2, 2), 1)[..., 2:]
    assert (scores - 1 / 8).abs().max() < 0.1


def test_expressions_are_learned_where_they_are_known() -> None:
    head = AffectHead(6, num_expressions=3, expression_weight=0.5)
    nn.init.normal_(head.classify.weight)
    samples = [labelled(torch.zeros(4, 2), [2, -1, 0, -1]), sample(torch.zeros(4, 2))]  # the second set has none
    losses = head.loss(features(), samples)
    logits = head.classify(features().mean((3, 4)).transpose(1, 2))[0]
    expected = -0.5 * (logits[0].log_softmax(-1)[2] + logits[2].log_softmax(-1)[0]) / 2
    torch.testing.assert_close(losses["loss_expression"], expected)
    assert set(losses) == {"loss_affect", "rmse", "pcc", "ccc", "loss_expression", "expression_accuracy"}


def test_a_class_the_head_does_not_know_is_refused() -> None:
    head = AffectHead(6, num_expressions=5)
    samples = [sample(torch.zeros(4, 2)), labelled(torch.zeros(4, 2), [0, 6, -1, 0])]
    with pytest.raises(ValueError, match=r"classes must be below num_expressions=5, got 6 \(video a\)"):
        head.loss(features(), samples)
    with pytest.raises(ValueError, match="class_weights need num_expressions, got None"):
        AffectHead(6, class_weights=[1.0, 2.0])


def test_weights_of_labels_reach_the_loss_and_a_sample_without_counts_as_one() -> None:
    head, feats = AffectHead(6).eval(), features()
    labels = torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(2)) - 0.5
    samples = [sample(rows) for rows in labels]
    plain = head.loss(feats, samples)["loss_affect"]
    samples[0].gt_weight = torch.ones(4)
    torch.testing.assert_close(head.loss(feats, samples)["loss_affect"], plain)
    samples[0].gt_weight = torch.tensor([0.0, 0.0, 1.0, 1.0])
    found = head.loss(feats, samples)["loss_affect"]
    samples[0].gt_valid[:2] = False
    del samples[0].gt_weight
    torch.testing.assert_close(found, head.loss(feats, samples)["loss_affect"])
    assert found != plain
