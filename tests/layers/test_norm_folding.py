"""Norms that are folded into the layers before them change nothing, and nothing that another one sees is folded."""

import pytest
import timm
import torch
from torch import nn

from hocp_mm.layers import FrameAxis, HOCPConv3d, exportable, factorize_, transduct_
from hocp_mm.layers.norm_folding import fold_norms_
from tests.laws import assert_close

FRAMES = 3


def lived_(network: nn.Module) -> nn.Module:
    """Give every norm statistics and scales, and every zero a number."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(-1.5, 1.5, generator=generator)
                module.bias.normal_(generator=generator)
    return network.eval()


def video(name: str, motion: bool) -> tuple[nn.Module, FrameAxis]:
    network, axis = timm.create_model(name, num_classes=0), FrameAxis()
    factorize_(network, 6, fit=False)
    transduct_(network, 3, "last", frame_axis=axis, motion={"rank": 2} if motion else None)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("factors.t") or ".motion." in key:
                parameter.add_(0.2 * torch.randn_like(parameter))
    axis.length = FRAMES
    return exportable(lived_(network).double()), axis


LEFT = {
    "test_resnet": 0,  # plain norms and timm's with activations
    "test_efficientnet": 0,
    "mobilenetv3_small_050": 0,
    "test_byobnet": 0,
    "regnetx_002": 0,
    "test_convnext": 0,  # layer norms only
    "densenet121": 62,  # norms before convolutions, which see what is joined
}


@pytest.mark.parametrize("motion", [False, True])
@pytest.mark.parametrize("name", LEFT)
def test_outputs_stay(name: str, motion: bool):
    network, _ = video(name, motion)
    x = torch.randn(2 * FRAMES, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        before = network(x)
        norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
        folded = fold_norms_(network, x)
        assert_close(network(x), before, 1e-9, "after folding")
    rest = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    assert norms - rest == len(folded)
    assert rest == LEFT[name] or (motion and rest <= norms / 2)  # some scales are too small to divide by
    assert fold_norms_(network, x) == []


def test_norms_that_begin_at_zero_are_left_to_motion_components_which_divide_by_them():
    network, x = video("test_resnet", True)[0], torch.randn(2 * FRAMES, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        network.layer1[0].bn2.weight.zero_()
        before = network(x)
        assert "layer1.0.bn2" not in fold_norms_(network, x)
        assert_close(network(x), before, 1e-9, "after folding")


def test_psi_and_three_dimensions():
    layer = HOCPConv3d(4, 6, 3, padding=1, rank=5, inner_norm_cfg={"type": "BN"}, inner_act_cfg={"type": "ReLU"})
    network = exportable(lived_(nn.Sequential(layer, nn.BatchNorm3d(6), nn.Conv3d(6, 3, 1), nn.BatchNorm3d(3))))
    x = torch.randn(2, 4, 3, 5, 5)
    with torch.no_grad():
        before = network(x)
        assert fold_norms_(network, x) == ["1", "3"]
        assert_close(network(x), before, 1e-5, "after folding")


class Seen(nn.Module):
    """A convolution and a norm, and somebody else who looks between them, or uses them twice."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), how
        if how == "of one weight":
            self.other, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.other.weight = self.conv.weight

    def forward(self, x):
        y = self.conv(x)
        if self.how == "added":
            return self.norm(y) + y
        if self.how == "returned":
            return self.norm(y), y
        if self.how == "twice":
            return self.norm(self.conv(self.norm(y)))
        if self.how == "two norms of one":
            return self.norm(y) + self.norm(x)
        if self.how == "viewed":
            return self.norm(y) + y.flatten(1).sum()
        if self.how == "as data":
            return self.norm(y) + y.data
        if self.how == "transposed":
            return self.norm(y) + y.mT
        if self.how == "its weight":
            return self.norm(y) + nn.functional.conv2d(x, self.conv.weight, padding=1)
        if self.how == "of one weight":
            return self.norm(y) + self.norm2(self.other(x))
        if self.how == "asked for its shape":
            return self.norm(y) * y.shape[1] + y.size(0)
        return self.norm(y)


@pytest.mark.parametrize(
    "how",
    [
        *("added", "returned", "twice", "two norms of one", "viewed"),
        *("as data", "transposed", "its weight", "of one weight"),
    ],
)
def test_what_another_one_sees_stays(how: str):
    network, x = lived_(Seen(how)), torch.randn(2, 3, 5, 5)
    assert fold_norms_(network, x) == []


def test_who_asks_for_the_shape_alone_does_not_mind():
    network, x = lived_(Seen("asked for its shape")), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        before = network(x)
        assert fold_norms_(network, x) == ["norm"]
        assert_close(network(x), before, 1e-5, "after folding")


def test_what_has_no_statistics_or_is_computed_stays():
    x = torch.randn(4, 3, 5, 5)
    batch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert fold_norms_(batch, x) == []
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)).eval()
    assert fold_norms_(normed, x) == []
    transposed = nn.Sequential(nn.ConvTranspose2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    assert fold_norms_(transposed, x) == []
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_norms_(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), x)
