"""How ``implementation='auto'`` decides; with a clock of our own, since nothing here may depend on a real one."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from hocp_mm.functional import choice, cp_conv
from hocp_mm.layers import HOCPConv2d
from tests.laws import random_kernel

MEASURES = pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="this torch does not tell of checkpointing, so nothing is ever measured",
)


class Clock:
    """Stands for the time module: runs of a form take what the test says."""

    def __init__(self, milliseconds: dict[str, float]) -> None:
        self.now, self.milliseconds, self.runs = 0.0, milliseconds, []

    def perf_counter(self) -> float:
        return self.now

    def run(self, form, x, kernel):
        self.runs.append((form, x.requires_grad))
        self.now += self.milliseconds[form]
        return x * kernel.weights.sum() * sum(f.sum() for f in kernel.factors.values())


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(choice, "_kept", {})
    clock = Clock({"factorized": 3.0, "mobilenet": 1.0, "fused": 2.0, "reconstructed": 40.0})
    monkeypatch.setattr(choice, "time", clock)
    return clock


def choose(clock, x=None, rank=512, can_fuse=False, can_rebuild=True, requires_grad=False):
    x = torch.randn(8, 16, 32, 32) if x is None else x
    kernel = random_kernel(out=16, in_=16, rank=rank, dtype=x.dtype, requires_grad=requires_grad)
    return choice.choose_form(clock.run, x, kernel, (), can_fuse=can_fuse, can_rebuild=can_rebuild)


def test_the_compiled_kernel_is_taken_unmeasured_where_cp_halves_the_multiplications(clock):
    assert choose(clock, rank=16, can_fuse=True) == "fused"
    assert clock.runs == []


@MEASURES
def test_the_fastest_form_is_kept_and_measured_once(clock):
    assert choose(clock) == "mobilenet"
    runs = len(clock.runs)
    assert choose(clock) == "mobilenet"
    assert len(clock.runs) == runs
    choose(clock, torch.randn(8, 16, 32, 33))
    assert len(clock.runs) > runs


@MEASURES
def test_nothing_is_measured_where_that_is_forbidden(clock):
    choice.allow_measuring(False)
    assert choose(clock) == "reconstructed"  # 16 x 16 x 9 multiplications against 512 x (16 + 16 + 9)
    assert clock.runs == []
    choice.allow_measuring(True)
    assert choose(clock) == "mobilenet"


def test_batches_of_similar_size_share_an_answer(clock):
    choose(clock, torch.randn(8, 16, 32, 32))
    runs = len(clock.runs)
    choose(clock, torch.randn(11, 16, 32, 32))
    assert len(clock.runs) == runs


@MEASURES
def test_what_is_out_of_the_race_runs_three_times_only(clock):
    choose(clock, can_fuse=True)
    runs = [form for form, _ in clock.runs]
    assert runs.count("reconstructed") == 3
    assert runs.count("mobilenet") == choice.ROUNDS + 1


@MEASURES
def test_gradients_are_part_of_the_measurement_and_reach_no_parameter(clock):
    kernel = random_kernel(out=16, in_=16, rank=512, dtype=torch.float32, requires_grad=True)
    choice.choose_form(clock.run, torch.randn(8, 16, 32, 32), kernel, (), can_fuse=False, can_rebuild=True)
    assert all(needs_grad for _, needs_grad in clock.runs)
    assert kernel.weights.grad is None
    clock.runs.clear()
    with torch.no_grad():
        choice.choose_form(clock.run, torch.randn(8, 16, 32, 32), kernel, (), can_fuse=False, can_rebuild=True)
    assert clock.runs
    assert not any(needs_grad for _, needs_grad in clock.runs)


def test_inner_functions_and_small_inputs_are_not_measured(clock):
    assert choose(clock, can_rebuild=False) == "mobilenet"
    assert choose(clock, torch.randn(1, 16, 4, 4)) == "reconstructed"  # rank 512 costs more than the dense kernel
    assert choose(clock, torch.randn(1, 16, 4, 4), rank=16) == "mobilenet"
    assert clock.runs == []


def test_deterministic_runs_are_not_measured(clock):
    torch.use_deterministic_algorithms(True)
    try:
        assert choose(clock) == "reconstructed"
    finally:
        torch.use_deterministic_algorithms(False)
    assert clock.runs == []


def test_nothing_is_measured_while_compiling_and_the_numbers_are_the_same(clock, monkeypatch):
    kernel = random_kernel(out=16, in_=16, rank=512)
    x = torch.randn(8, 16, 32, 32, dtype=torch.float64)
    monkeypatch.setattr(choice, "fastest", None)  # would fail if called
    compiled = torch.compile(lambda x: cp_conv(x, kernel), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), cp_conv(x, kernel, implementation="reconstructed"))


def test_single_axes_serve_double_precision_in_3d(clock):
    x = torch.randn(1, 4, 3, 3, 3, dtype=torch.float64)
    kernel = random_kernel(taps=(3, 3, 3), rank=4)
    assert choice.by_count(x, kernel, can_fuse=False, can_rebuild=True) == "factorized"
    assert choice.by_count(x.float(), kernel, can_fuse=False, can_rebuild=True) == "mobilenet"


@MEASURES
def test_a_measured_choice_changes_no_number_and_no_random_state(monkeypatch):
    monkeypatch.setattr(choice, "_kept", {})
    kernel = random_kernel(out=16, in_=16, rank=512)
    x = torch.randn(8, 16, 32, 32, dtype=torch.float64)
    state = torch.get_rng_state()
    out = cp_conv(x, kernel)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(choice._kept) == 1
    torch.testing.assert_close(out, cp_conv(x, kernel, implementation="reconstructed"))


def test_checkpointed_layers_are_not_measured(monkeypatch):
    monkeypatch.setattr(choice, "_kept", {})
    layer = HOCPConv2d(16, 16, 3, padding=1, rank=128, dtype=torch.float64)
    x = torch.randn(8, 16, 24, 24, dtype=torch.float64, requires_grad=True)
    out = checkpoint(layer, x, use_reentrant=False)
    out.sum().backward()
    assert choice._kept == {}
    assert x.grad is not None


def test_counters_do_not_see_trial_runs(monkeypatch):
    monkeypatch.setattr(choice, "_kept", {})
    layer = HOCPConv2d(16, 16, 3, padding=1, rank=128, dtype=torch.float64)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(8, 16, 24, 24, dtype=torch.float64))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
