"""The temporal neck where it is used: in our recognizer, and in MMAction2's."""

import pytest
import torch
from mmengine.registry import DefaultScope

from hocp_mm import compat
from hocp_mm.models import AffectRecognizer
from hocp_mm.structures import AffectDataSample

compat.apply()

from mmaction.registry import MODELS  # noqa: E402 - after the work-arounds
from mmaction.structures import ActionDataSample  # noqa: E402

NECK = {"type": "hocp_mm.HOCPTemporalNeck", "hidden_channels": 8, "rank": 6}
RESNET = {
    "type": "ResNet3d", "depth": 18, "pretrained": None, "norm_eval": False, "zero_init_residual": False,
    "base_channels": 8,
}  # fmt: skip
SLOWFAST = {
    "type": "ResNet3dSlowFast", "pretrained": None, "resample_rate": 4, "speed_ratio": 4, "channel_ratio": 4,
    "slow_pathway": {
        "type": "resnet3d", "depth": 18, "pretrained": None, "lateral": True, "fusion_kernel": 5, "base_channels": 8,
        "conv1_kernel": (1, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1, "inflate": (0, 0, 1, 1),
        "norm_eval": False,
    },
    "fast_pathway": {
        "type": "resnet3d", "depth": 18, "pretrained": None, "lateral": False, "base_channels": 2,
        "conv1_kernel": (5, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1, "norm_eval": False,
    },
}  # fmt: skip
# (backbone, neck, head)
STOCK = {
    "one stage": (RESNET, {"in_channels": 64}, {"type": "I3DHead", "in_channels": 64}),
    "two stages to one": (
        {**RESNET, "out_indices": (1, 3)},
        {"in_channels": (16, 64), "with_losses": True, "last_only": True},
        {"type": "I3DHead", "in_channels": 64},
    ),
    "slow and fast path": (
        SLOWFAST,
        {"in_channels": (64, 16), "with_losses": True},
        {"type": "SlowFastHead", "in_channels": 80},
    ),
}


def stock_recognizer(backbone, neck, head) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope("mmaction"):
        return MODELS.build(
            {
                "type": "Recognizer3D",
                "backbone": backbone,
                "neck": neck and {**NECK, **neck},
                "cls_head": {**head, "num_classes": 5, "dropout_ratio": 0, "average_clips": "prob"},
            }
        )


def twin_without_neck(model, backbone, head) -> torch.nn.Module:
    """Build the same recognizer without a neck and with the same weights; it returns the last stage only."""
    if head["type"] == "I3DHead":
        backbone = {**backbone, "out_indices": (3,)}
    twin = stock_recognizer(backbone, None, head)
    twin.load_state_dict({n: p for n, p in model.state_dict().items() if not n.startswith("neck.")})
    return twin


def labelled_clips(clips=1):
    """Two videos of some clips: ``[2, clips, 3, T, H, W]``."""
    return torch.randn(2, clips, 3, 8, 32, 32), [ActionDataSample().set_gt_label(label) for label in (1, 3)]


@pytest.mark.parametrize(("backbone", "neck", "head"), STOCK.values(), ids=STOCK)
def test_a_stock_recognizer_with_the_neck_starts_as_the_one_without_and_trains(backbone, neck, head):
    model = stock_recognizer(backbone, neck, head)
    model.init_weights()
    twin = twin_without_neck(model, backbone, head)
    inputs, samples = labelled_clips()

    losses, expected = (m.loss(inputs, samples) for m in (model, twin))
    assert losses.keys() == expected.keys()
    assert torch.equal(losses["loss_cls"], expected["loss_cls"])

    model.eval(), twin.eval()  # stock train() of a backbone returns None
    with torch.no_grad():
        scores, expected = ([s.pred_score for s in m.predict(inputs, samples)] for m in (model, twin))
    assert torch.equal(torch.stack(scores), torch.stack(expected))

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {n: p.detach().clone() for n, p in model.neck.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model.loss(inputs, samples))
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert all(not torch.equal(before[n], p) for n, p in model.neck.named_parameters()), "a parameter did not train"


@pytest.mark.parametrize("name", STOCK)
def test_views_of_a_video_may_be_tested_in_portions(name):
    model = stock_recognizer(*STOCK[name])
    with torch.no_grad():
        for parameter in model.neck.parameters():
            parameter.normal_(std=0.1)
    model.eval()
    inputs, samples = labelled_clips(clips=3)
    inputs, samples = inputs[:1], samples[:1]
    with torch.no_grad():
        whole = model.predict(inputs, samples)[0].pred_score.clone()
        model.test_cfg = {"max_testing_views": 2}
        portions = model.predict(inputs, samples)[0].pred_score
    assert torch.allclose(whole, portions, atol=1e-6)


def test_several_stages_in_a_stock_recognizer_need_to_be_told_at_the_first_step():
    backbone, _, head = STOCK["slow and fast path"]
    model = stock_recognizer(backbone, {"in_channels": (64, 16)}, head)
    with pytest.raises(ValueError, match="with a tuple of stages needs with_losses=True, got False for 2 stages"):
        model.loss(*labelled_clips())


@pytest.mark.parametrize(
    ("out_indices", "in_channels"), [((3,), 64), ((2, 3), (32, 64)), ((2, 3), 64)], ids=["tensor", "tuple", "last"]
)
def test_our_recognizer_takes_the_neck_over_a_stock_backbone(out_indices, in_channels):
    backbone = {**RESNET, "type": "mmaction.ResNet3d", "out_indices": out_indices}
    model = AffectRecognizer(
        backbone, {"type": "hocp_mm.AffectHead", "in_channels": 64}, {**NECK, "in_channels": in_channels}
    ).eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        feats = model.extract_feat(clip)
        bare = model.backbone(clip)
        predicted = model(clip, [AffectDataSample(), AffectDataSample()], mode="predict")
    assert len(feats) == len(out_indices)
    assert torch.equal(feats[-1], bare if isinstance(bare, torch.Tensor) else bare[-1])
    assert [tuple(sample.pred_affect.shape) for sample in predicted] == [(8, 2), (8, 2)]


def test_a_lone_tensor_and_a_tuple_get_the_answers_of_their_recognizers():
    neck = MODELS.build({**NECK, "in_channels": 12})
    x = torch.randn(2, 12, 4, 3, 3)
    for out, losses in (neck(x), neck(x, data_samples=None)):
        assert torch.equal(out, x)
        assert losses == {}
    (out,) = neck([x])
    assert torch.equal(out, x)
    last_only = MODELS.build({**NECK, "in_channels": 12, "last_only": True})
    (out,) = last_only((x[:, :3], x))
    assert torch.equal(out, x)
