"""`AffectRecognizer` joins the parts, for any backbone that keeps five dimensions."""

from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from hocp_mm.models.recognizers import AffectRecognizer
from hocp_mm.registry import MODELS
from hocp_mm.structures import AffectDataSample


class Conv(nn.Module):
    """A backbone of one convolution; returns a bare map or a tuple, with or without temporal stride."""

    def __init__(self, stride: int = 1, bare: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, padding=1, stride=(stride, 2, 2))
        self.bare = bare

    def forward(self, x: Tensor) -> Any:
        """Return one map or two."""
        x = self.conv(x)
        return x if self.bare else (x[:, :1], x)


class Double(nn.Module):
    """A neck."""

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Double every map."""
        return tuple(2 * f for f in feats)


def build(stride: int = 1, bare: bool = False, **settings: Any) -> AffectRecognizer:
    torch.manual_seed(0)
    return AffectRecognizer(Conv(stride, bare), {"type": "hocp_mm.AffectHead", "in_channels": 4}, **settings)


def data(frames: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    clips = [torch.randint(0, 256, (3, frames, 8, 8), generator=generator, dtype=torch.uint8) for _ in range(2)]
    inds = list(range(frames))
    samples = [
        AffectDataSample.from_clip(
            torch.rand(frames, 2, generator=generator) - 0.5, video=v, frame_inds=inds, num_frames=frames, fps=25
        )
        for v in "ab"
    ]
    return {"inputs": clips, "data_samples": samples}


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_training_step_moves_every_part(stride: int, bare: bool) -> None:
    model = build(stride, bare)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    log = model.train_step(data(), optimizer)
    assert log["loss"] == log["loss_affect"]
    assert torch.isfinite(log["loss"])
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_predictions_come_per_frame_in_the_samples_that_went_in(stride: int) -> None:
    model, batch = build(stride).eval(), data()
    with torch.no_grad():
        samples = model.test_step(batch)
        expected = model(model.data_preprocessor(batch)["inputs"])
    assert [sample.video for sample in samples] == ["a", "b"]
    torch.testing.assert_close(torch.stack([sample.pred_affect for sample in samples]), expected)
    assert expected.shape == (2, 6, 2)


def predict(model: AffectRecognizer, clip: Tensor) -> Tensor:
    """Return ``[N, T, 2]`` of evaluation mode."""
    with torch.no_grad():
        return torch.stack([sample.pred_affect for sample in model.eval()(clip, mode="predict")])


def test_flip_averages_the_clip_and_its_mirror_image() -> None:
    plain, mirrored = build(), build(test_cfg={"flip": True})
    clip = torch.randn(2, 3, 6, 8, 8)
    one, other = predict(plain, clip), predict(plain, clip.flip(-1))
    torch.testing.assert_close(predict(mirrored, clip), (one + other) / 2)
    assert not torch.allclose(one, other)


def test_with_flip_a_clip_and_its_mirror_image_get_the_very_same() -> None:
    clip = torch.randn(2, 3, 6, 8, 8)
    mirrored = build(test_cfg={"flip": True})
    assert torch.equal(predict(mirrored, clip), predict(mirrored, clip.flip(-1)))


def test_flip_changes_nothing_where_the_network_sees_no_sides() -> None:
    clip = torch.randn(2, 3, 6, 9, 9)  # odd, so that the strided convolution meets the same columns from both sides
    networks = [build(), build(test_cfg={"flip": True})]
    for network in networks:
        weight = network.backbone.conv.weight.data
        weight.add_(weight.flip(-1).clone())  # a symmetric kernel: the map of the mirror image is the mirrored map
    plain, averaged = (predict(network, clip) for network in networks)
    torch.testing.assert_close(averaged, plain)
    assert not torch.allclose(predict(build(), clip), plain)


def test_flip_is_off_by_default_and_for_predictions_alone() -> None:
    plain, mirrored, batch = build().eval(), build(test_cfg={"flip": True}).eval(), data()
    inputs = plain.data_preprocessor(batch)["inputs"]
    seen: list[int] = []
    for model in (plain, mirrored):
        model.backbone.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        assert torch.equal(plain(inputs), mirrored(inputs))
        one, other = (m(inputs, batch["data_samples"], mode="loss")["loss_affect"] for m in (plain, mirrored))
    assert torch.equal(one, other)
    assert len(seen) == 4  # one pass for each of these
    predict(plain, inputs)
    assert len(seen) == 5
    predict(mirrored, inputs)
    assert len(seen) == 7


def test_a_neck_sits_between_backbone_and_head() -> None:
    clip = torch.randn(1, 3, 2, 8, 8)
    plain, necked = build(), build(neck=Double())
    bias = plain.head.regress.bias
    torch.testing.assert_close(necked(clip) - bias, 2 * (plain(clip) - bias))


def test_one_frame_is_a_clip_too() -> None:
    assert build()(torch.randn(2, 3, 1, 8, 8)).shape == (2, 1, 2)


def test_labels_keep_their_fraction_from_the_sample_to_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, seen = build(), data(), []
    for sample in batch["data_samples"]:
        sample.gt_affect[:] = torch.tensor([0.37, -0.82])
    loss = model.head.loss_module.forward
    monkeypatch.setattr(model.head.loss_module, "forward", lambda *args: (seen.append(args[1]), loss(*args))[1])
    model.train_step(data=batch, optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert torch.equal(seen[0], torch.tensor([0.37, -0.82]).expand(2, 6, 2))


def test_mmengine_initialisation_changes_no_weight_of_the_head() -> None:
    model = build()
    before = {name: p.detach().clone() for name, p in model.head.named_parameters()}
    model.init_weights()
    assert all(torch.equal(p, before[name]) for name, p in model.head.named_parameters())


def test_stock_backbone_of_mmaction2_with_temporal_stride() -> None:
    from hocp_mm import compat

    compat.apply()
    backbone = {"type": "mmaction.ResNet3d", "depth": 18, "pretrained": None, "conv1_stride_t": 2, "pool1_stride_t": 2}
    backbone |= {"norm_cfg": {"type": "BN3d", "requires_grad": True}, "norm_eval": False}
    head = {"type": "hocp_mm.AffectHead", "in_channels": 512}
    model = MODELS.build({"type": "hocp_mm.AffectRecognizer", "backbone": backbone, "head": head})
    model.eval()
    samples = model(torch.randn(1, 3, 8, 32, 32), mode="predict")
    assert samples[0].pred_affect.shape == (8, 2)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be tensor, loss or predict, got 'test'"):
        build()(torch.randn(1, 3, 2, 8, 8), mode="test")
    with pytest.raises(ValueError, match="mode='loss' needs data_samples"):
        build()(torch.randn(1, 3, 2, 8, 8), mode="loss")
    with pytest.raises(ValueError, match="test_cfg knows flip only, got crops"):
        build(test_cfg={"crops": 3})


def test_head_and_neck_take_their_channels_from_the_backbone() -> None:
    backbone = {"type": "hocp_mm.TimmHOCPBackbone", "model_name": "test_efficientnet", "rank": 4}
    head, neck = {"type": "hocp_mm.AffectHead"}, {"type": "hocp_mm.HOCPTemporalNeck", "rank": 4}
    one = AffectRecognizer(backbone, head, neck)
    assert (one.head.in_channels, one.neck.in_channels) == (64, 64)
    fused = AffectRecognizer({**backbone, "out_indices": (1, -1)}, head, neck)
    assert (fused.head.in_channels, fused.neck.in_channels) == (64, (24, 64))
    assert fused(torch.zeros(1, 3, 2, 64, 64)).shape == (1, 2, 2)
    with pytest.raises(TypeError, match="in_channels"):
        AffectRecognizer(Conv(), head)


def test_a_neck_that_returns_losses_is_refused() -> None:
    class Stock(nn.Module):
        def forward(self, feats: tuple[Tensor, ...]) -> Any:
            return feats[-1], {}

    with pytest.raises(TypeError, match=r"feature maps alone, got \['dict'\]"):
        build(neck=Stock())(torch.zeros(1, 3, 2, 8, 8))


def test_a_backbone_may_tell_its_width_as_one_number() -> None:
    backbone = Conv(bare=True)
    backbone.out_channels = 4  # torchvision's way
    assert AffectRecognizer(backbone, {"type": "hocp_mm.AffectHead"}).head.in_channels == 4


def test_expressions_come_with_the_predictions_flip_averaged_too() -> None:
    torch.manual_seed(0)
    head = {"type": "hocp_mm.AffectHead", "in_channels": 4, "num_expressions": 3}
    model = AffectRecognizer(Conv(), head, test_cfg={"flip": True}).eval()
    torch.nn.init.normal_(model.head.classify.weight, std=3)
    clip = torch.randn(2, 3, 6, 8, 8)
    with torch.no_grad():
        assert model(clip).shape == (2, 6, 2)
        samples = model(clip, mode="predict")
        both = [model.head.predict(model.extract_feat(x), 6) for x in (clip, clip.flip(-1))]
    expected = (both[0] + both[1]) / 2
    torch.testing.assert_close(torch.stack([s.pred_affect for s in samples]), expected[..., :2])
    torch.testing.assert_close(torch.stack([s.pred_scores for s in samples]), expected[..., 2:])
    assert torch.equal(samples[1].pred_expression, expected[1, :, 2:].argmax(-1))


def test_a_training_step_moves_the_expression_layer() -> None:
    head = {"type": "hocp_mm.AffectHead", "in_channels": 4, "num_expressions": 3}
    model, batch = AffectRecognizer(Conv(), head), data()
    for sample in batch["data_samples"]:
        sample.gt_expression = torch.tensor([0, 1, 2, -1, 1, 0])
    before = model.head.classify.weight.detach().clone()
    log = model.train_step(batch, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert log["loss"] == log["loss_affect"] + log["loss_expression"]
    assert not torch.equal(model.head.classify.weight, before)
