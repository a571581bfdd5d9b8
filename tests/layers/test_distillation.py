import copy

import pytest
import torch
from torch import nn

from hocp_mm.layers import distill_
from tests.layers.test_reconstruction import compressed, network, output_error, pictures


def test_networks_come_closer():
    net, images = network(), pictures()
    model = compressed(net, 4)
    before = output_error(model, net, images)
    losses = []
    last = distill_(model, net, images, steps=40, rate=1e-2, report=lambda step, loss: losses.append((step, loss)))
    assert output_error(model, net, images) < 0.7 * before
    assert [step for step, _ in losses] == list(range(40))
    assert last == pytest.approx(sum(loss for _, loss in losses[-4:]) / 4)


def test_the_loss_is_that_of_outputs_and_of_layers():
    net, images = network(), pictures(1)
    model = compressed(net)
    met = []
    for part in (net, model):
        for name in ("2", "5", "7"):
            part.get_submodule(name).register_forward_hook(lambda _, __, out: met.append(out.detach().clone()))
        part.register_forward_hook(lambda _, __, out: met.append(out.detach().clone()))
    with torch.no_grad():
        net(images[0])
        model(images[0])
    shares = [float((a - b).square().sum() / a.square().sum()) for a, b in zip(met[:4], met[4:], strict=True)]
    loss = distill_(model, net, images, steps=1, features=0.5)
    assert loss == pytest.approx(shares[3] + 0.5 * sum(shares[:3]) / 3, rel=1e-4)


def test_only_the_layers_change_and_nothing_is_left_behind():
    net = network().train()
    net[0].weight.requires_grad_(False)
    model = compressed(net)
    model[2].weights.grad = kept = torch.ones(6)
    before, dense = copy.deepcopy(model.state_dict()), copy.deepcopy(net.state_dict())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    images = pictures()
    state = torch.get_rng_state()
    distill_(model, net, images, steps=2, layers="5")
    assert torch.equal(torch.get_rng_state(), state)
    changed = {name[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"5"}
    assert all(torch.equal(tensor, dense[name]) for name, tensor in net.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model[2].weights.grad is kept
    assert all(p.grad is None for p in [*net.parameters(), *model[5].parameters()])
    assert model.training
    assert not any(layer._forward_hooks for layer in (*model, *net))


def test_frozen_layers_learn_too_and_stay_frozen():
    net = network().requires_grad_(False)
    model = compressed(net)
    before = copy.deepcopy(model.state_dict())
    distill_(model, net, pictures(), steps=2)
    assert not torch.equal(model[5].weights, before["5.weights"])
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("batches", [[], iter([torch.randn(1, 3, 10, 10)])], ids=["none", "a generator"])
def test_batches_that_run_out_are_refused(batches):
    net = network()
    with pytest.raises(ValueError, match="at least one batch each time"):
        distill_(compressed(net), net, batches, steps=3)


def test_steps_must_be_positive():
    net = network()
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        distill_(compressed(net), net, pictures(), steps=0)


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="must hold an HO-CP layer"):
        distill_(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), [torch.randn(1, 3, 5, 5)], steps=1)
