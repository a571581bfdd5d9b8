import numpy as np
import pytest
import torch
from torch import nn

from hocp_mm.functional.cp import dense_kernel
from hocp_mm.functional.decompose import decompose, whitened
from hocp_mm.layers.calibration import input_moments, output_moments
from tests.laws import relative_error


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv1d(6, 4, 3), (2, 6, 9)),
        (nn.Conv2d(6, 4, 3, padding=1, stride=2), (2, 6, 5, 7)),
        (nn.Conv3d(6, 4, 3, groups=2), (2, 6, 4, 5, 3)),
        (nn.Conv2d(6, 4, 1), (6, 5, 7)),
    ],
    ids=["1-D", "2-D with padding", "3-D with groups", "without batch"],
)
def test_moments_are_those_numpy_computes_over_all_batches(conv, shape):
    batches = [torch.randn(shape), torch.randn(shape)]
    moment = input_moments(nn.Sequential(conv), batches, "0")["0"]
    samples = np.concatenate([b.double().numpy().reshape(-1, *shape[-conv.weight.ndim + 1 :]) for b in batches])
    samples = samples.swapaxes(0, 1).reshape(conv.groups, 6 // conv.groups, -1)
    expected = np.stack([group @ group.T / group.shape[1] for group in samples])
    assert moment.dtype == torch.float64
    assert moment.shape == expected.shape
    np.testing.assert_allclose(moment.numpy(), expected, rtol=1e-10)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Dropout(0.5), nn.Conv2d(8, 4, 1)
    )


def test_the_default_layers_are_the_factorizable_ones_and_patterns_take_any():
    images = [torch.randn(2, 3, 8, 8)]
    assert list(input_moments(network(), images)) == ["2"]
    assert list(input_moments(network(), images, ["0", "4"])) == ["0", "4"]


def test_the_model_is_left_as_it_was():
    model = network().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    model[3].register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
    input_moments(model, [torch.randn(2, 3, 8, 8)])
    assert seen == [(False, False)]
    assert [module.training for module in model] == [True, False, True, True, True]
    assert not any(module._forward_pre_hooks for module in (model[0], model[2], model[4]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_is_restored_after_an_error():
    model = network().train()
    with pytest.raises(RuntimeError, match="channels"):
        input_moments(model, [torch.randn(2, 5, 8, 8)])
    assert model.training
    assert not model[2]._forward_pre_hooks


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, image, scale):
        return self.conv(input=image * scale)


def test_batches_may_be_positional_or_keyword_arguments():
    image = torch.randn(2, 8, 5, 5)
    (positional,) = input_moments(TwoInputs(), [(image, 2.0)]).values()
    (named,) = input_moments(TwoInputs(), [{"image": image, "scale": 2.0}]).values()
    (plain,) = input_moments(nn.Sequential(nn.Conv2d(8, 8, 3)), [2 * image]).values()
    assert torch.equal(positional, named)
    assert torch.equal(positional, plain)


def test_calibrated_fits_change_the_output_less():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
    images = torch.nn.functional.avg_pool2d(torch.randn(24, 3, 44, 44), 3, 1)
    moment = input_moments(model, images[:8].split(4))["2"]
    with torch.no_grad():
        features = model[:2](images[8:])
        expected = model[2](features)
        outputs = [
            torch.nn.functional.conv2d(features, dense_kernel(fit.kernel), model[2].bias)
            for fit in (decompose(model[2].weight, 16), decompose(model[2].weight, 16, input_moment=moment))
        ]
    plain, weighted = (relative_error(output, expected) for output in outputs)
    assert weighted < 0.75 * plain


@pytest.mark.parametrize(
    ("model", "batches", "layers", "message"),
    [
        (network(), [torch.randn(1, 3, 8, 8)], "head", "must match a convolution, got 'head'"),
        (nn.Sequential(nn.Linear(2, 2)), [torch.randn(1, 2)], None, "must match a convolution, got None"),
        (network(), [], None, "at least one batch, got none"),
        (nn.ModuleDict({"used": nn.Conv2d(8, 8, 3)}), [], None, "at least one batch"),
    ],
    ids=["no name matches", "no convolution", "no batch", "no batch for a child"],
)
def test_refusals(model, batches, layers, message):
    with pytest.raises(ValueError, match=message):
        input_moments(model, batches, layers)


def test_a_layer_that_never_runs_is_named():
    model = TwoInputs()
    model.spare = nn.Conv2d(8, 8, 3)
    with pytest.raises(ValueError, match="every selected layer must run, got no input for spare"):
        input_moments(model, [(torch.randn(1, 8, 5, 5), 1.0)])


class Several(nn.Module):
    """Two outputs of one number each, in a mapping, beside one that no layer makes; the activation works in place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 4, 3, groups=2)

    def forward(self, x):
        y = torch.relu_(self.conv(x))
        return {"sum": y.sum(), "more": [y.square().sum(), torch.ones(3)], "count": 2}


@pytest.mark.parametrize("trains", [True, False], ids=["parameters train", "parameters frozen"])
def test_output_moments_are_those_of_the_gradients_in_units_of_each_output(trains):
    net = Several().requires_grad_(trains)
    batches = [torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5)]
    (found,) = output_moments(net, batches, "conv").values()
    expected = torch.zeros(2, 2, 2, dtype=torch.float64)
    for x in batches:
        y = net.conv(x).detach().requires_grad_()
        for out in (torch.relu(y).sum(), torch.relu(y).square().sum()):
            (g,) = torch.autograd.grad(out, y)
            g = (g / out.detach()).double().transpose(0, 1).flatten(1).unflatten(0, (2, 2))
            expected += g @ g.mT / 4  # two outputs, two batches
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_moments_tell_what_an_error_of_a_layer_costs_the_output():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))
    images = [torch.randn(8, 3, 12, 12) for _ in range(4)]
    inputs, outputs = input_moments(model, images, "2"), output_moments(model, images, "2")
    weight = model[2].weight.detach().clone()
    with torch.no_grad():
        before = torch.cat([model(x) for x in images])
        error = 1e-3 * torch.randn_like(weight)
        model[2].weight.add_(error)
        lost = relative_error(torch.cat([model(x) for x in images]), before) ** 2
    share = whitened(error, 1, inputs["2"], outputs["2"]).square().sum()
    assert 0.3 < float(share) / lost < 3


def test_output_moments_draw_from_their_own_seed():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))
    images = [torch.randn(2, 8, 5, 5)]
    state = torch.get_rng_state()
    first, again, other = (output_moments(model, images, seed=seed)["0"] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("model", "batches", "layers", "message"),
    [
        (network(), [torch.randn(1, 3, 8, 8)], "head", "output_moments: layers must match a convolution"),
        (network(), [], None, "output_moments: batches must hold at least one batch"),
        (nn.ModuleDict({"used": nn.Conv2d(8, 8, 3)}), [], "used", "at least one batch"),
    ],
    ids=["no name matches", "no batch", "no batch for a child"],
)
def test_output_moments_refuse(model, batches, layers, message):
    with pytest.raises(ValueError, match=message):
        output_moments(model, batches, layers)


class Beside(nn.Module):
    """One layer whose output is thrown away."""

    def __init__(self, returns):
        super().__init__()
        self.conv, self.spare, self.returns = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), returns

    def forward(self, x):
        self.spare(x)
        return self.conv(x) if self.returns else x


@pytest.mark.parametrize(("returns", "message"), [(True, "act on the output, spare does not"), (False, "got none")])
def test_a_layer_without_effect_is_named(returns, message):
    with pytest.raises(ValueError, match=message):
        output_moments(Beside(returns), [torch.randn(1, 8, 5, 5)])
