import pytest
from torch import nn

from hocp_mm.layers.modes import evaluating


class Stubborn(nn.BatchNorm2d):
    """As frozen norms are written: never in training mode by ``train``."""

    def train(self, mode=True):
        return super().train(False)


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_gets_its_own_mode_back(fails):
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), Stubborn(2)).train()
    net[1].eval()
    net[2].training = True
    flags = [module.training for module in net.modules()]
    try:
        with evaluating(net):
            assert not any(module.training for module in net.modules())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [module.training for module in net.modules()] == flags == [True, True, False, True]
