"""Any configuration, any form: the same numbers, shape, dtype, layout, gradients and refusals as the dense operator.

The oracle of orders 1 to 3 is PyTorch's own module with the dense kernel; order 4, where PyTorch stops, is compared
with the definition (see :func:`tests.laws.brute_force_conv`).
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from hocp_mm.functional import CPKernel, Implementation, cp_conv, dense_kernel
from hocp_mm.functional.padding import Ints, resolve_padding
from tests.laws import brute_force_conv, random_kernel, relative_error

FORMS = get_args(Implementation)
DENSE = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


@dataclass(frozen=True)
class Case:
    """One call of ``cp_conv``; what hypothesis prints when the law breaks."""

    channels: int
    out: int
    rank: int
    groups: int
    taps: tuple[int, ...]
    size: tuple[int, ...]
    stride: Ints
    padding: Ints | str
    dilation: Ints
    padding_mode: str
    bias: bool
    batch: int | None
    """None for an unbatched input."""
    layout: str
    form: Implementation
    dtype: torch.dtype
    passes: bool
    """Give an ``inner`` and a ``gate`` that change nothing, which bars the forms without components."""
    recompute: bool
    gradients: bool

    @property
    def order(self) -> int:
        return len(self.taps)


@st.composite
def cases(draw) -> Case:
    order = draw(st.sampled_from([1, 2, 2, 3, 3, 1, 2, 3, 4]))
    # Sizes and batches shrink with the order, so that four modes cost no more than two.
    longest = {1: 12, 2: 9, 3: 6, 4: 4}[order]
    per_mode = lambda low, high: st.tuples(*[st.integers(low, high)] * order)  # noqa: E731
    int_or_ints = lambda low, high: st.integers(low, high) | per_mode(low, high)  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    form = draw(st.sampled_from(FORMS))
    word = draw(st.sampled_from([None, None, None, "same", "valid"]))
    passes = form != "reconstructed" and draw(st.sampled_from([False, False, False, True]))
    return Case(
        channels=groups * draw(st.integers(1, 4)),
        out=groups * draw(st.integers(1, 4)),
        rank=groups * draw(st.integers(1, 5)),
        groups=groups,
        taps=draw(per_mode(1, 4 if order < 4 else 3)),
        size=draw(per_mode(1, longest)),
        # 'same' refuses strides: seldom enough to see both sides.
        stride=draw(st.just(1) if word == "same" and draw(st.integers(0, 3)) else int_or_ints(1, 3)),
        padding=word or draw(int_or_ints(0, 3)),
        dilation=draw(int_or_ints(1, 3 if order < 3 else 2)),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "circular", "replicate", "reflect"])),
        bias=draw(st.booleans()),
        batch=draw(st.sampled_from([None, 0, 1, 2, 3] if order < 4 else [None, 0, 1, 2])),
        layout=draw(st.sampled_from(["contiguous", "channels last", "transposed", "expanded", "every second"])),
        form=form,
        dtype=draw(st.sampled_from([torch.float64, torch.float32])),
        passes=passes,
        recompute=not passes and draw(st.booleans()),  # with an inner function it is refused
        gradients=draw(st.sampled_from([False, False, True])),
    )


def laid_out(case: Case) -> Tensor:
    """Draw the input in the memory layout of the case."""
    shape = (1 if case.batch is None else case.batch, case.channels, *case.size)
    if case.layout == "transposed":  # the last dim is the slowest one
        x = torch.randn(*reversed(shape), dtype=case.dtype).permute(*reversed(range(len(shape))))
    elif case.layout == "expanded":  # one channel, seen again and again through stride 0
        x = torch.randn(shape[0], 1, *case.size, dtype=case.dtype).expand(shape)
    elif case.layout == "every second":
        x = torch.randn(*shape[:-1], 2 * shape[-1], dtype=case.dtype)[..., ::2]
    else:
        x = torch.randn(shape, dtype=case.dtype)
        if case.layout == "channels last" and case.order in CHANNELS_LAST:
            x = x.contiguous(memory_format=CHANNELS_LAST[case.order])
    return x[0] if case.batch is None else x


def dense_conv(case: Case, x: Tensor, kernel: CPKernel, bias: Tensor | None) -> Tensor:
    """Run the dense operator; raises what it raises."""
    weight = dense_kernel(kernel)
    if case.order == 4:
        return _dense_conv4d(case, x, weight, bias)
    layer = DENSE[case.order](
        case.channels, case.out, case.taps, case.stride, case.padding, case.dilation, case.groups,
        bias=False, padding_mode=case.padding_mode, dtype=case.dtype,
    )  # fmt: skip
    return layer._conv_forward(x, weight, bias)  # with weight as an argument, so that gradients reach the factors


def _dense_conv4d(case: Case, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    ints = lambda value: (value,) * 4 if isinstance(value, int) else value  # noqa: E731
    stride, dilation = ints(case.stride), ints(case.dilation)
    pads = resolve_padding(case.padding, case.taps, stride, dilation)
    bound = {"reflect": 1, "circular": 0}.get(case.padding_mode)
    for size, (before, after), k, d in zip(case.size, pads, case.taps, dilation, strict=True):
        if bound is not None and max(before, after) > size - bound:
            raise RuntimeError("padding reaches further than the input")
        if size + before + after < d * (k - 1) + 1:
            raise RuntimeError("the kernel is larger than the padded input")
    batched = x if case.batch is not None else x.unsqueeze(0)
    if batched.shape[0] == 0:
        spans = zip(case.size, pads, case.taps, dilation, stride, strict=True)
        return x.new_empty(0, case.out, *((n + a + b - d * (k - 1) - 1) // s + 1 for n, (a, b), k, d, s in spans))
    y = brute_force_conv(batched.detach(), weight.detach(), stride, pads, dilation, case.groups, case.padding_mode)
    y = y if bias is None else y + bias.detach().reshape(-1, 1, 1, 1, 1)
    return y if case.batch is not None else y.squeeze(0)


def check(case: Case) -> None:
    """Compare one call with the dense operator in everything a caller can see."""
    torch.manual_seed(0)
    kernel = random_kernel(
        case.out, case.channels, case.taps, case.rank, case.groups, case.dtype, requires_grad=case.gradients
    )
    bias = torch.randn(case.out, dtype=case.dtype, requires_grad=case.gradients) if case.bias else None
    x = laid_out(case)
    x.requires_grad_(case.gradients)
    options = {"padding_mode": case.padding_mode, "implementation": case.form, "recompute": case.recompute}
    if case.passes:
        options |= {"inner": lambda z: z, "gate": lambda z: z}

    def run() -> Tensor:
        return cp_conv(x, kernel, bias, case.stride, case.padding, case.dilation, **options)

    try:
        expected = dense_conv(case, x, kernel, bias)
    except (RuntimeError, ValueError) as refusal:
        with pytest.raises((RuntimeError, ValueError)):
            run()
        if "padding='same'" in str(refusal):
            with pytest.raises(ValueError, match="padding='same' needs stride 1"):
                run()
        return
    actual = run()
    assert actual.dtype == expected.dtype
    assert relative_error(actual, expected) <= TOLERANCE[case.dtype]  # and the shape
    _check_layout(case, x, actual, expected)
    if case.gradients and case.order < 4:
        _check_gradients(case, x, kernel, bias, actual, expected)


def _check_layout(case: Case, x: Tensor, actual: Tensor, expected: Tensor) -> None:
    if case.batch is None:
        return
    if x.is_contiguous() and expected.is_contiguous():
        assert actual.is_contiguous()
    memory_format = CHANNELS_LAST.get(case.order)
    # PyTorch itself returns contiguous in float64 3-D; ours may keep more than it does, never less.
    if memory_format is None or case.layout != "channels last" or 1 in (*x.shape, *expected.shape, case.rank):
        return  # where a size is 1, strides do not tell the formats apart, and operators guess
    if expected.is_contiguous(memory_format=memory_format):
        assert actual.is_contiguous(memory_format=memory_format)


def _check_gradients(
    case: Case, x: Tensor, kernel: CPKernel, bias: Tensor | None, actual: Tensor, expected: Tensor
) -> None:
    wrt = [x, kernel.weights, *kernel.factors.values(), *([] if bias is None else [bias])]
    cotangent = torch.randn_like(expected)
    ours = torch.autograd.grad(actual, wrt, cotangent)
    dense = torch.autograd.grad(expected, wrt, cotangent)
    for name, one, other in zip(["x", "weights", *kernel.factors, "bias"], ours, dense, strict=False):
        # Sums over a whole batch cancel, so a gradient loses a digit more than the output.
        assert relative_error(one, other) <= 10 * TOLERANCE[case.dtype], f"gradient of {name}"


NORMAL, THOROUGH = 300, 3000
_hypothesis = {
    "derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)
}  # fmt: skip


_even_same = pytest.mark.filterwarnings("ignore:Using padding='same'")  # PyTorch's hint about its own copy


@_even_same
@settings(max_examples=NORMAL, **_hypothesis)
@given(case=cases())
def test_any_configuration_equals_the_dense_operator(case):
    check(case)


@_even_same
@pytest.mark.slow
@settings(max_examples=THOROUGH, **_hypothesis)
@given(case=cases())
def test_many_more_configurations_equal_the_dense_operator(case):
    check(case)


@_even_same
def test_the_cases_reach_what_they_are_for():
    """A strategy that drifts into refusals, or never meets a feature, would leave the law above empty."""
    met: set[object] = set()
    refused = compared = 0

    @settings(max_examples=NORMAL, **_hypothesis)
    @given(case=cases())
    def look(case: Case) -> None:
        nonlocal refused, compared
        kernel = random_kernel(case.out, case.channels, case.taps, case.rank, case.groups, case.dtype)
        try:
            dense_conv(case, laid_out(case), kernel, None)
        except (RuntimeError, ValueError):
            refused += 1
            return
        compared += 1
        met.update([case.order, case.form, case.padding_mode, case.layout, ("batch", case.batch), case.dtype])
        met.update([("groups", case.groups), ("same", case.padding == "same"), ("gradients", case.gradients)])

    look()
    assert compared > NORMAL / 2
    assert refused > NORMAL / 20
    wanted = [*FORMS, *DENSE, 4, "zeros", "circular", "replicate", "reflect", *TOLERANCE]
    wanted += ["contiguous", "channels last", "transposed", "expanded", "every second"]
    wanted += [("batch", n) for n in (None, 0, 1, 2)] + [("groups", n) for n in (1, 2, 3)]
    wanted += [("same", True), ("gradients", True)]
    assert set(wanted) <= met


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_gradients_of_each_form_are_those_of_finite_differences(order, form):
    taps, size = (2, 3, 1, 2)[:order], (3, 2, 2, 2)[:order]
    kernel = random_kernel(out=2, in_=2, taps=taps, rank=2, groups=2, requires_grad=True)
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def run(x, bias, weights, *factors):
        rebuilt = CPKernel(weights, dict(zip(kernel.factors, factors, strict=True)), groups=2)
        stride = (2, *[1] * (order - 1))
        return cp_conv(x, rebuilt, bias, stride, 1, padding_mode="circular", implementation=form)

    assert gradcheck(run, (x, bias, kernel.weights, *kernel.factors.values()))


LAYOUTS = {"1x1": (1, 1, 1), "k x k": (3, 3, 3), "taps in the first mode": (3, 1, 1), "in the last": (1, 1, 3)}


@pytest.mark.parametrize(("form", "case"), list(product(FORMS, LAYOUTS)))
@pytest.mark.parametrize("order", [2, 3])
def test_channels_last_stays_through_every_form(order, form, case):
    """Not implied above: PyTorch's own 3-D operator loses the layout where h and w have one tap."""
    taps = LAYOUTS[case][-order:]
    memory_format = CHANNELS_LAST[order]
    x = torch.randn(2, 4, *[5] * order).contiguous(memory_format=memory_format)
    y = cp_conv(x, random_kernel(taps=taps, dtype=torch.float32), padding=tuple(k // 2 for k in taps),
                implementation=form)  # fmt: skip
    assert prod(y.shape[2:]) > 1
    assert y.is_contiguous(memory_format=memory_format)
