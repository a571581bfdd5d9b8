import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hocp_mm.functional import output_fit
from hocp_mm.functional.cp import dense_kernel
from hocp_mm.functional.output_fit import OutputMoments, fit_outputs
from hocp_mm.layers import HOCPConv1d, HOCPConv2d, HOCPConv3d, factorize_, reconstruct_, transduct_
from hocp_mm.layers import reconstruction as module
from hocp_mm.layers.temporal import FrameAxis
from tests.laws import random_kernel, relative_error


def network() -> nn.Sequential:
    """A stem and three dense layers with a norm, an activation in place and groups between them."""
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 8, (3, 1), groups=2, padding=(1, 0)),
    )
    net[3].running_mean.normal_()
    net[3].running_var.uniform_(0.5, 2)
    return net.eval()


LAYERS = ["2", "5", "7"]


def compressed(net, rank=6):
    model = copy.deepcopy(net)
    factorize_(model, rank, layers=LAYERS)
    return model


def pictures(count=3, size=10):
    return [F.avg_pool2d(torch.randn(8, 3, size + 2, size + 2), 3, 1) for _ in range(count)]


def output_error(model, net, images):
    with torch.no_grad():
        return relative_error(torch.cat([model(x) for x in images]), torch.cat([net(x) for x in images]))


def test_networks_are_closer_after_and_on_other_pictures():
    net = network()
    model = compressed(net)
    others = pictures()
    before = output_error(model, net, others)
    errors = reconstruct_(model, net, pictures(6))
    assert list(errors) == LAYERS
    assert all(after < before for before, after in errors.values())
    assert output_error(model, net, others) < 0.7 * before


def test_reported_errors_are_those_of_the_outputs():
    net, images = network(), pictures()
    model = compressed(net)
    wanted, got = [], []
    net[5].register_forward_hook(lambda _, __, out: wanted.append(out.clone()))
    errors = reconstruct_(model, net, images, layers="5")["5"]
    model[5].register_forward_hook(lambda _, __, out: got.append(out.clone()))
    wanted.clear()
    output_error(model, net, images)
    assert errors.after == pytest.approx(relative_error(torch.cat(got), torch.cat(wanted)), rel=1e-3)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (HOCPConv1d(6, 8, 3, stride=2, padding=1, rank=5), (4, 6, 11)),
        (HOCPConv2d(6, 8, 3, padding="same", dilation=2, rank=5), (4, 6, 7, 8)),
        (HOCPConv2d(6, 8, 3, padding="tf_same", stride=2, rank=5), (4, 6, 7, 8)),
        (HOCPConv2d(6, 8, (3, 2), groups=2, padding_mode="circular", padding=1, rank=6), (4, 6, 7, 8)),
        (HOCPConv3d(6, 8, (3, 1, 3), stride=(1, 2, 1), rank=5), (3, 6, 4, 5, 6)),
        (HOCPConv2d(6, 8, 3, bias=False, rank=5), (6, 7, 8)),
    ],
    ids=["1-D strided", "same and dilated", "TensorFlow's SAME", "groups, circular", "3-D", "without batch and bias"],
)
@torch.no_grad()
def test_output_factor_and_bias_are_those_of_lstsq_on_the_components(layer, shape):
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    target = torch.randn_like(layer(x))
    kernel = layer.kernel()
    entries = layer.in_channels // layer.groups * torch.tensor(layer.kernel_size).prod()
    moments = OutputMoments(layer.groups, int(entries), layer.out_channels // layer.groups, layer.weights)
    for patches, wanted in module._samples(x, target, layer):
        moments.add(patches, wanted)
    has_bias = layer.bias is not None
    found = fit_outputs(kernel, torch.zeros(kernel.shape).double(), moments, bias=has_bias, prior=0.0, max_iter=0)
    # The components, by the layer itself: one output channel for each.
    rank, groups = layer.rank, layer.groups
    probe = copy.deepcopy(layer)
    probe.out_channels, probe.bias = rank, None
    probe.weights.fill_(1)
    probe.factors["out"] = nn.Parameter(torch.eye(rank // groups, dtype=torch.float64).repeat(1, groups))
    components, wanted = (by_group(y, layer) for y in (probe(x), target))
    layer.set_kernel(found.kernel)
    if has_bias:
        layer.bias.copy_(found.bias)
        components = torch.cat([components, torch.ones_like(components[:, :1])], dim=1)
    solution = torch.linalg.lstsq(components.mT, wanted.mT).solution
    torch.testing.assert_close(by_group(layer(x), layer), solution.mT @ components, rtol=1e-4, atol=1e-4)


def by_group(y, layer):
    y = y if y.ndim == layer.kernel_order + 2 else y.unsqueeze(0)
    return y.transpose(0, 1).flatten(1).unflatten(0, (layer.groups, -1))


def moments_of(kernel, x):
    """Moments of patches of ``x`` and of what a dense kernel makes of them."""
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.kernel_size).double()
    layer = HOCPConv2d.from_dense(conv, kernel.rank, fit=False)
    layer.set_kernel(kernel)
    moments = OutputMoments(1, kernel.shape[1] * 9, kernel.shape[0], x)
    with torch.no_grad():
        for patches, target in module._samples(x, F.conv2d(x, dense_kernel(kernel)), layer):
            moments.add(patches, target)
    return moments


def test_a_kernel_of_exact_rank_is_found_again_from_its_components():
    kernel = random_kernel(out=8, in_=6, rank=5)
    moments = moments_of(kernel, torch.randn(4, 6, 9, 9, dtype=torch.float64))
    exact = dense_kernel(kernel)
    kernel.factors["out"].normal_()
    assert moments.error(kernel, None) > 0.5
    for max_iter in (0, 5):
        found = fit_outputs(kernel, exact, moments, max_iter=max_iter)
        assert relative_error(dense_kernel(found.kernel), exact) < 1e-4


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_more_steps_never_raise_the_error_that_is_minimised(prior):
    dense = torch.randn(8, 6, 3, 3, dtype=torch.float64)
    x = torch.randn(4, 6, 9, 9, dtype=torch.float64).cumsum(-1)
    start = random_kernel(out=8, in_=6, rank=5)
    moments = moments_of(start, x)
    moments.cross.normal_()
    moments.targets.copy_(8 * moments.targets.diagonal(dim1=1, dim2=2).diag_embed() + moments.cross.square().sum())
    costs = torch.randn(1, 8, 8, dtype=torch.float64)
    problem = output_fit._Regression(dense, moments, 0, True, costs @ costs.mT, prior)
    lost = []
    for max_iter in (0, 1, 5, 30):
        factors, _ = problem.solve(list(start.factors.values()), max_iter)
        rows = torch.einsum("ir,hr,wr->rihw", *factors[1:]).flatten(1)
        lost.append(float(problem._regress(rows, rows @ problem.inputs)[1]))
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < lost[0]


def test_a_layer_makes_up_for_those_before_it():
    net, images, others = network(), pictures(6), pictures()
    damaged = compressed(net, 40)
    with torch.no_grad():
        damaged[2].factors["out"].mul_(torch.rand(12, 1) + 0.3)
    repaired, symmetric = copy.deepcopy(damaged), copy.deepcopy(damaged)
    reconstruct_(repaired, net, images, layers=["5", "7"])
    # The same fits from what the dense network feeds the layers.
    symmetric[2] = net[2]
    reconstruct_(symmetric, net, images, layers=["5", "7"])
    symmetric[2] = damaged[2]
    assert output_error(repaired, net, others) < 0.6 * output_error(symmetric, net, others)


def test_a_norm_takes_the_bias_of_a_layer_without_one():
    net, images = network(), pictures()
    model = compressed(net, 2)
    reconstruct_(model, net, images, layers="2")
    assert model[2].bias is None
    assert not torch.equal(model[3].running_mean, net[3].running_mean)
    with torch.no_grad():
        errors = torch.cat([model[:4](x) - net[:4](x) for x in images])
    assert float(errors.mean((0, 2, 3)).abs().max()) < 1e-5
    again = reconstruct_(model, net, images, layers="2")["2"]
    assert again.after <= again.before * (1 + 1e-4)


class Twice(nn.Module):
    """One layer that is called twice, and nothing after it matters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x, scale):
        return self.conv(torch.relu(self.conv(x)) * scale)


def test_a_layer_that_is_called_twice_is_fitted_to_both_calls():
    net = Twice()
    model = copy.deepcopy(net)
    factorize_(model, 6)
    images = [{"x": torch.randn(4, 8, 7, 7), "scale": scale} for scale in (1.0, 2.0)]
    before = [relative_error(model(**batch), net(**batch)) for batch in images]
    errors = reconstruct_(model, net, images)["conv"]
    assert errors.after < errors.before
    assert sum(relative_error(model(**batch), net(**batch)) for batch in images) < sum(before)


def test_networks_are_left_as_they_were_but_for_the_factors():
    net = network()
    model = compressed(net).train()
    model[3].eval()
    dense_before, before = copy.deepcopy(net.state_dict()), copy.deepcopy(model.state_dict())
    reconstruct_(model, net, pictures(), layers="5")
    assert [layer.training for layer in model] == [True, True, True, False, True, True, True, True]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in (*model, *net))
    assert all(torch.equal(tensor, dense_before[name]) for name, tensor in net.state_dict().items())
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"5"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_arguments_give_the_same_factors_and_draw_nothing():
    net, images = network(), pictures()
    first, second = compressed(net), compressed(net)
    state = torch.get_rng_state()
    assert reconstruct_(first, net, images) == reconstruct_(second, net, iter(images))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_dense_outputs_are_taken_in_several_passes_where_memory_is_short(monkeypatch):
    net, images = network(), pictures()
    first, second = compressed(net), compressed(net)
    expected = reconstruct_(first, net, images)
    monkeypatch.setattr(module, "_KEPT_BYTES", 1)
    monkeypatch.setattr(module, "_PATCH_BYTES", 1)
    found = reconstruct_(second, net, images)
    for name in LAYERS:
        assert found[name] == pytest.approx(expected[name], rel=1e-2)


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive at once."""

    def __init__(self):
        super().__init__()
        self.sizes, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, key, None)
                self.peak = max(self.peak, sum(self.sizes.values()))
        return result


def test_a_layer_of_512_channels_takes_less_than_a_gigabyte():
    net = nn.Sequential(nn.Conv2d(512, 512, 3, padding=1))
    model = copy.deepcopy(net)
    factorize_(model, 8, layers="0", fit=False)
    images = [torch.randn(2, 512, 6, 6)]
    with Live() as live:
        reconstruct_(model, net, images, layers="0", max_iter=1)
    assert 100 * 2**20 < live.peak < 2**30


def with_time(model):
    transduct_(model, 3, frame_axis=FrameAxis())
    return model


def with_psi(net):
    model = copy.deepcopy(net)
    factorize_(model, 4, layers="5", fit=False, inner_act_cfg={"type": "ReLU"})
    return model


@pytest.mark.parametrize(
    ("make", "dense", "options", "error", "message"),
    [
        (compressed, None, {"batches": []}, ValueError, "at least one batch, got none"),
        (copy.deepcopy, None, {}, ValueError, "must hold an HO-CP layer, got none"),
        (lambda net: with_time(compressed(net)), None, {}, NotImplementedError, r"got FrameFoldedHOCPConv2d .*'2'"),
        (with_psi, None, {}, NotImplementedError, "got 'inner' in layer '5'"),
        (compressed, nn.Sequential(nn.Conv2d(3, 12, 3)), {}, NotImplementedError, r"same sizes, got None \(layer '2'"),
        (compressed, compressed, {}, NotImplementedError, r"same sizes, got HOCPConv2d\("),
        (compressed, None, {"output_moments": {}}, KeyError, "got none for '2'"),
    ],
    ids=["no batch", "no layer", "sees time", "Psi", "no twin", "twin in CP form", "no moment"],
)
def test_refusals(make, dense, options, error, message):
    net = network()
    dense = net if dense is None else dense(net) if callable(dense) and not isinstance(dense, nn.Module) else dense
    with pytest.raises(error, match=message):
        reconstruct_(make(net), dense, **{"batches": pictures(), **options})


def test_a_layer_that_never_runs_is_named():
    net = Twice()
    net.spare = nn.Conv2d(8, 8, 3)
    model = copy.deepcopy(net)
    factorize_(model, 6)
    with pytest.raises(ValueError, match="every selected layer must run, spare does not"):
        reconstruct_(model, net, [(torch.randn(1, 8, 5, 5), 1.0)])


def test_a_layer_that_sees_nothing_vary_keeps_its_components_and_gets_the_bias():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-1.0)
    model = copy.deepcopy(net)
    factorize_(model, 4)
    kernel = dense_kernel(model[2].kernel())
    with torch.no_grad():
        model[2].bias.add_(1.0)
    errors = reconstruct_(model, net, pictures())["2"]
    assert errors.after < 1e-3 < errors.before
    assert relative_error(dense_kernel(model[2].kernel()), kernel) < 1e-5


def test_inputs_that_are_not_finite_are_refused():
    net = network()
    with pytest.raises(ValueError, match="samples must be finite"):
        reconstruct_(compressed(net), net, [torch.full((1, 3, 10, 10), float("nan"))])


def test_fitted_kernels_are_balanced():
    net = network()
    model = compressed(net)
    reconstruct_(model, net, pictures(), layers="5")
    norms = torch.stack([factor.norm(dim=0) for factor in model[5].kernel().factors.values()])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))
