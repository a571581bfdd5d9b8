import copy

import pytest
import timm
import torch
from safetensors.torch import save_file

from hocp_mm.errors import CheckpointError, MissingDataError, UnknownModelError
from hocp_mm.functional import dense_kernel
from hocp_mm.models import TimmHOCPBackbone
from hocp_mm.registry import MODELS
from tests.laws import assert_framewise, random_kernel, relative_error


def build(**options) -> TimmHOCPBackbone:
    """Build a ResNet-18 backbone through the registry, in evaluation mode with lived-in norm statistics."""
    torch.manual_seed(0)
    backbone = MODELS.build({"type": "hocp_mm.TimmHOCPBackbone", "model_name": "resnet18", "rank": "x1", **options})
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm starts residual branches at zero
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return backbone.eval()


@pytest.fixture(scope="module")
def image_backbone():
    return build(temporal_kernel=1)


@pytest.mark.parametrize("init", ["central", "last"])
def test_before_training_the_video_network_is_the_image_network_on_each_frame(image_backbone, init):
    video = build(temporal_init=init)
    missing = video.load_state_dict(image_backbone.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert len(missing.missing_keys) == 16
    assert all(name.endswith("factors.t") for name in missing.missing_keys)
    for frames in (1, 5):
        clip = torch.randn(2, 3, frames, 64, 64)
        assert_framewise(lambda c: video(c)[-1], lambda c: image_backbone(c)[-1], clip)


def test_batches_of_images_and_clips_of_one_frame_are_the_same(image_backbone):
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        features = image_backbone.stages.read(image_backbone.net, images)[-1]
        assert relative_error(image_backbone(images.unsqueeze(2))[-1].squeeze(2), features) < 1e-5


def test_stages_and_channels_are_returned_as_asked():
    backbone = build(out_indices=(1, 3), temporal_kernel=5)
    features = backbone(torch.randn(1, 3, 2, 64, 64))
    assert [tuple(f.shape) for f in features] == [(1, 64, 2, 16, 16), (1, 256, 2, 4, 4)]
    assert backbone.out_channels == [64, 256]


def test_totals_are_those_of_the_method():
    """The sixteen block convolutions at R = C: 2.39 M parameters, of which 10 k are temporal."""
    backbone = build()
    layers = [m for name, m in backbone.net.named_modules() if name in backbone.transducted]
    assert len(layers) == 16
    assert sum(layer.rank for layer in layers) == 3392
    temporal = sum(layer.factors["t"].numel() for layer in layers)
    assert temporal == 3 * 3392
    total = sum(p.numel() for layer in layers for p in layer.parameters())
    assert total == pytest.approx(2.39e6, rel=0.005)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_timm_file_is_decomposed(tmp_path, suffix):
    dense = timm.create_model("resnet18", num_classes=7)
    with torch.no_grad():  # kernels of low rank, so that a small rank fits them
        for name, module in dense.named_modules():
            if name.startswith("layer1") and "conv" in name:
                module.weight.copy_(dense_kernel(random_kernel(out=64, in_=64, rank=2, dtype=torch.float32)))
    path = tmp_path / f"weights{suffix}"
    save_file(dense.state_dict(), path) if suffix == ".safetensors" else torch.save(
        {"state_dict": dense.state_dict()}, path
    )
    video = build(checkpoint=str(path), rank=4, factorize=[r"^layer1"], temporal_layers=[r"^layer1"])
    assert video.load_report is not None
    assert list(video.load_report.decomposed) == video.factorized
    assert max(video.load_report.decomposed.values()) < 0.05
    assert sorted(video.load_report.classifier) == ["fc.bias", "fc.weight"]
    assert torch.equal(video.net.layer4[1].conv2.weight, dense.layer4[1].conv2.weight)


def test_every_temporal_factor_gets_a_finite_gradient():
    backbone = build().train()
    features = backbone(torch.randn(2, 3, 3, 64, 64))[-1]
    (features * torch.randn_like(features)).sum().backward()
    factors = [p for name, p in backbone.named_parameters() if name.endswith("factors.t")]
    assert len(factors) == 16
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in factors)


def test_init_weights_keeps_loaded_weights(image_backbone):
    before = copy.deepcopy(image_backbone.state_dict())
    image_backbone.init_weights()
    assert all(torch.equal(before[name], tensor) for name, tensor in image_backbone.state_dict().items())


REFUSED = {
    "an unknown name": ({"model_name": "resnet81"}, UnknownModelError, "got 'resnet81' \\(nearest: .*resnet18"),
    "a missing checkpoint": (
        {"checkpoint": "nowhere/weights.pth"},
        (CheckpointError, MissingDataError),
        "nowhere/weights.pth",
    ),
    "two sources": ({"checkpoint": "a.pth", "pretrained": True}, ValueError, "got both"),
    "an init_cfg": ({"init_cfg": {"type": "Pretrained"}}, ValueError, "init_cfg must be None"),
    "an even central kernel": ({"temporal_kernel": 4}, ValueError, "odd size, got 4"),
    "a transformer": ({"model_name": "test_vit"}, ValueError, "got 'test_vit' .a transformer or MLP"),
    "no channels": ({"in_chans": 0}, ValueError, "in_chans must be at least 1, got 0"),
    "a stage that is not there": (
        {"out_indices": (5,)},
        ValueError,
        r"stages of 'resnet18' between -5 and 4, .*\(5,\)",
    ),
    "stages out of order": ({"out_indices": (3, 1)}, ValueError, r"must increase, got \(3, 1\)"),
    "a stage twice": ({"out_indices": (4, -1)}, ValueError, r"must increase, got \(4, -1\)"),
    "two maps as one tensor": ({"out_indices": (1, 2), "return_tensor": True}, ValueError, "needs one map, got 2"),
    "weights in another word": (
        {"timm_options": {"checkpoint_path": "a.pth"}},
        ValueError,
        "leave checkpoint_path to checkpoint",
    ),
    "stages in another word": (
        {"timm_options": {"features_only": True}},
        ValueError,
        "leave features_only to out_indices",
    ),
    "a name that is none": ({"model_name": None}, TypeError, "model_name must be a string, got None"),
    "a stage without a list": ({"out_indices": 3}, TypeError, "out_indices must be a list of ints, got 3"),
    "channels that are no int": ({"in_chans": 2.0}, TypeError, r"in_chans must be an int, got 2\.0"),
    "a pattern that is none": ({"freeze": "("}, ValueError, r"regular expressions, got \['\('\]"),
    "an unknown start of an image network": ({"temporal_kernel": 1, "temporal_init": "bogus"}, ValueError, "bogus"),
    "temporal layers that are not there": (
        {"temporal_layers": "layer9"},
        ValueError,
        "must match a layer, got 'layer9'",
    ),
    "no stage": ({"out_indices": ()}, ValueError, "at least one, got"),
    "a pattern that freezes nothing": ({"freeze": "layer9"}, ValueError, "freeze must match .* got 'layer9'"),
    "a pattern that factorizes nothing": ({"factorize": ["layer9"]}, ValueError, r"got \['layer9'\] \(none matches"),
    "a rank from weights without any": ({"rank": "auto"}, ValueError, "no weights to look at, got 'auto'"),
    "checkpointing that timm cannot do": (
        {"model_name": "inception_v4", "grad_checkpointing": True},
        NotImplementedError,
        "got 'inception_v4'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_backbone_refuses(case):
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        build(**options)


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 4, 2, 64, 64), (1, 3, 0, 64, 64)], ids=str)
def test_a_clip_of_another_shape_is_refused(image_backbone, shape):
    with pytest.raises(ValueError, match=r"clip must be \["):
        image_backbone(torch.zeros(shape))


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(timm.create_model("resnet34").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"unexpected \(layer1.2.conv1.weight.*resnet34.pth"):
        build(checkpoint=str(path))
