"""Stock MMAction2 backbones with our convolution, through ``conv_cfg``."""

import pytest
import torch
from mmengine.registry import DefaultScope

from hocp_mm import compat
from hocp_mm.layers import HOCPConv3d

compat.apply()

from mmaction.registry import MODELS  # noqa: E402 - after the work-arounds

CONV = {"type": "hocp_mm.HOCPConv3d", "rank": 64}
BACKBONES = {
    "ResNet3d": {
        "type": "ResNet3d", "depth": 18, "pretrained": None, "norm_eval": False, "zero_init_residual": False,
        "conv_cfg": CONV,
    },
    "ResNet3dSlowOnly": {
        "type": "ResNet3dSlowOnly", "depth": 50, "pretrained": None, "lateral": False, "norm_eval": False,
        "zero_init_residual": False,
        "conv1_kernel": (1, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1, "inflate": (0, 0, 1, 1), "conv_cfg": CONV,
    },
}  # fmt: skip


def build(name):
    with DefaultScope.overwrite_default_scope("mmaction"):
        return MODELS.build(BACKBONES[name])


@pytest.mark.parametrize("name", BACKBONES)
def test_a_stock_backbone_builds_trains_one_step_and_round_trips(name):
    torch.manual_seed(0)
    model = build(name)
    model.init_weights()
    factors = {n: p for n, p in model.named_parameters() if ".factors." in n}
    layers = [m for m in model.modules() if isinstance(m, HOCPConv3d)]
    assert len(layers) > 10
    assert all(layer.rank == 64 for layer in layers)
    assert all(p.std().item() > 1e-3 for p in factors.values() if p.numel() > 64), "init_weights lost the factors"

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {n: p.detach().clone() for n, p in factors.items()}
    clip = torch.randn(2, 3, 4, 32, 32)
    features = model(clip)
    loss = (features * torch.randn_like(features)).mean()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert all(not torch.equal(before[n], p) for n, p in factors.items()), "a factor did not train"

    twin = build(name)
    twin.load_state_dict(model.state_dict(), strict=True)
    model.eval(), twin.eval()  # stock train() returns None
    with torch.no_grad():
        assert torch.equal(model(clip), twin(clip))
