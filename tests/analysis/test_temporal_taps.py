"""Taps of layers that see time: energies by hand, deltas, zero sums."""

import csv
from pathlib import Path

import pytest
import torch

from hocp_mm.analysis.temporal_taps import temporal_taps, write_taps
from tests.analysis.test_receptive_field import network


def test_a_network_that_was_just_transducted_has_deltas():
    model = network({"temporal_kernel": 3, "motion": {"rank": 4}})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("factors.t") and "motion" not in name:
                parameter.zero_()[1] = 1
    layers = [layer for layer in temporal_taps(model) if layer.kind == "factor"]
    assert [layer.layer for layer in layers] == [f"backbone.net.{name}" for name in model.backbone.transducted]
    for layer in layers:
        assert layer.offsets == (-1, 0, 1)
        assert layer.from_delta == 0
        assert layer.in_time == pytest.approx((0, 1, 0), abs=1e-6)


def test_energy_and_distance_by_hand_from_the_dense_kernel():
    """Components that share nothing but time: their energies are those of the dense kernel's taps."""
    model = network({"rank": 1, "temporal_init": "last"})
    layer = next(module for module in model.modules() if hasattr(module, "kernel") and module.__dict__.get("before"))
    with torch.no_grad():
        layer.factors["t"].copy_(torch.tensor([[3.0], [0.0], [4.0]]))
    own = next(taps for taps in temporal_taps(model) if model.get_submodule(taps.layer) is layer)
    assert own.offsets == (-2, -1, 0)
    torch.testing.assert_close(own.energy, torch.tensor([9 / 25, 0, 16 / 25]))
    assert own.from_delta == pytest.approx((9 + 9) ** 0.5)
    assert own.in_time == pytest.approx((9 / 25, 16 / 25, 0))
    weights, *factors = layer.weights, *(layer.factors[name] for name in ("out", "in", "t", "h", "w"))
    dense = torch.einsum("r,or,ir,tr,hr,wr->oithw", weights, *factors)
    assert own.strength == pytest.approx(float(dense.norm()), rel=1e-5)


def test_motion_has_no_sum_and_no_strength_before_it_learns():
    model = network({"motion": {"rank": 4}})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "motion.factors.out" in name:
                parameter.zero_()
    moved = [layer for layer in temporal_taps(model) if layer.kind == "motion"]
    assert moved
    for layer in moved:
        torch.testing.assert_close(layer.taps.sum(0), torch.zeros(layer.taps.shape[1]), atol=1e-5, rtol=0)
        assert (layer.strength, layer.from_delta, float(layer.energy.sum())) == (0, None, 0)


def test_necks_and_networks_without_time(tmp_path: Path):
    neck = network({"temporal_kernel": 1}, {"causal": True, "dilations": (2,), "context_kernel": 3})
    layers = temporal_taps(neck)
    assert [(layer.kind, layer.offsets) for layer in layers] == [("neck", (-4, -2, 0))] * 2
    rows = list(csv.DictReader(write_taps(layers, tmp_path / "taps.csv").read_text().splitlines()))
    assert [row["offset_frames"] for row in rows] == ["-4", "-2", "0"] * 2
    assert sum(float(row["energy_share"]) for row in rows) == pytest.approx(2, abs=1e-4)
    assert temporal_taps(network({"temporal_kernel": 1})) == []
