"""The compiled kernel against dense float64 operations, for every memory order, and as a PyTorch operator."""

import os
import shutil

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hocp_mm.functional import CPKernel, cp_conv
from hocp_mm.functional.cost import motion_cost
from hocp_mm.functional.native import (
    Factors,
    StepPlan,
    add_motion,
    calls,
    fused_cp_conv,
    native_available,
    pack_factors,
)
from tests.laws import assert_close

# Not `native_available()`: a kernel that does not build must fail here.
pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or os.environ.get("HOCP_MM_NATIVE") == "0", reason="no g++, or switched off"
)

ORDERS = ("channels outside", "channels inside", "frames outside", "neither")


def arranged(x: torch.Tensor, order: str) -> torch.Tensor:
    """Copy ``x`` ``[n, c, t, h, w]`` into a memory order; ``neither`` is every second column of a wider tensor."""
    if order == "channels inside":
        return x.contiguous(memory_format=torch.channels_last_3d)
    if order == "frames outside":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if order == "neither":
        return x.repeat_interleave(2, dim=4)[..., ::2]
    return x.contiguous()


def dense(x, weights, f_out, f_in, f_t, f_h, f_w, bias, stride, pads, dilation):
    weight = torch.einsum("r,or,ir,tr,hr,wr->oithw", weights, f_out, f_in, f_t, f_h, f_w)
    return F.conv3d(F.pad(x, [*pads[4:], *pads[2:4], *pads[:2]]), weight, bias, stride, 0, dilation)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_output_and_every_gradient_equal_the_dense_convolution(data):
    draw, channels = data.draw, st.integers(1, 40)
    c, o, r = draw(channels), draw(channels), draw(channels)
    taps, size = draw(st.tuples(*[st.integers(1, 4)] * 3)), draw(st.tuples(*[st.integers(1, 9)] * 3))
    stride, dilation = draw(st.tuples(*[st.integers(1, 3)] * 3)), draw(st.tuples(*[st.integers(1, 2)] * 3))
    pads = draw(st.lists(st.integers(0, 4), min_size=6, max_size=6))
    room = [n + sum(pads[2 * a : 2 * a + 2]) - dilation[a] * (taps[a] - 1) for a, n in enumerate(size)]
    if min(room) < 1:
        return
    temporal = draw(st.booleans()) or taps[0] > 1 or stride[0] > 1 or any(pads[:2])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    factors = ((r,), (o, r), (c, r), *((k, r) for k in taps))
    shapes = ((draw(st.integers(1, 3)), c, *size), *factors, (o,))
    exact = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    absent = {4} if not temporal else set()
    if not temporal and taps[1] == 1 and stride[1] == 1 and not any(pads[2:4]) and draw(st.booleans()):
        absent.add(5)
    for index in absent:
        exact[index] = torch.ones(1, r, dtype=torch.float64)
    single = [arranged(exact[0].float(), draw(st.sampled_from(ORDERS))), *(t.float() for t in exact[1:])]
    for tensor in (*exact, *single):
        tensor.requires_grad_()
    given = [None if index in absent else tensor for index, tensor in enumerate(single)]

    out = fused_cp_conv(*given, stride, pads, dilation)
    expected = dense(*exact, stride, pads, dilation)
    assert_close(out, expected, 1e-5, "output")
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    out.backward(arranged(grad.float(), draw(st.sampled_from(ORDERS))))
    expected.backward(grad)
    for index, (a, b) in enumerate(zip(single, exact, strict=True)):
        if index not in absent:
            # A gradient that is zero but for rounding has no relative error.
            assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm() + 1e-4, index


def layer(requires_grad: bool = False) -> list:
    """Arguments of a small layer whose channels and rank fill no whole vector."""
    torch.manual_seed(0)
    shapes = ((2, 6, 5, 8, 7), (20,), (9, 20), (6, 20), (3, 20), (3, 20), (3, 20), (9,))
    return [torch.randn(s, requires_grad=requires_grad) for s in shapes] + [[1, 2, 1], [1] * 6, [1, 1, 1]]


def test_pytorch_accepts_the_operator():
    torch.library.opcheck(fused_cp_conv, tuple(layer(requires_grad=True)))
    without = layer(requires_grad=True)
    without[4] = without[7] = None
    without[9] = [0, 0, 1, 1, 1, 1]
    torch.library.opcheck(fused_cp_conv, tuple(without))


@pytest.mark.parametrize("order", ORDERS[:3])
def test_the_output_lies_in_memory_as_the_input_does(order):
    arguments = layer()
    arguments[0] = arranged(arguments[0], order)
    assert calls.memory_order(fused_cp_conv(*arguments)) == order


def test_threads_do_not_change_the_output_and_repeats_do_not_change_the_gradients():
    def run() -> list[torch.Tensor]:
        arguments = layer(requires_grad=True)
        out = fused_cp_conv(*arguments)
        out.square().sum().backward()
        return [out, *(a.grad for a in arguments[:8])]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(2)
        two, again = run(), run()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0])
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))


def test_gradients_that_nobody_wants_are_not_computed(monkeypatch):
    seen = []
    run = calls.run_backward
    monkeypatch.setattr(
        "hocp_mm.functional.native.operators.run_backward", lambda *a: seen.append(list(a[-1])) or run(*a)
    )
    arguments = layer()
    arguments[4].requires_grad_()
    fused_cp_conv(*arguments).sum().backward()
    assert seen == [[False] * 4 + [True] + [False] * 2]
    expected = layer()
    expected[4].requires_grad_()
    dense(*expected).sum().backward()
    assert_close(arguments[4].grad, expected[4].grad, 1e-5, "temporal taps alone")


def test_the_kernel_is_there():
    assert native_available()


def test_second_derivatives_equal_those_of_the_dense_convolution():
    def curvature(convolve, arguments):
        tensors = [a.requires_grad_() for a in arguments[:8]]
        first = torch.autograd.grad(convolve(*tensors, *arguments[8:]).square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)

    exact = [a.double() if isinstance(a, torch.Tensor) else a for a in layer()]
    for actual, expected in zip(curvature(fused_cp_conv, layer()), curvature(dense, exact), strict=True):
        assert_close(actual, expected, 1e-4, "second derivative")


def test_derivatives_stay_partial_where_the_input_depends_on_a_factor():
    f_w = torch.randn(3, 4, requires_grad=True)
    kernel = CPKernel(torch.ones(4), {"out": torch.randn(4, 4), "in": torch.randn(4, 4), "w": f_w})
    x = (torch.randn(2, 4, 3) * f_w.T).contiguous()
    results = []
    for form in ("fused", "mobilenet"):
        (first,) = torch.autograd.grad(
            cp_conv(x, kernel, padding=1, implementation=form).square().sum(), f_w, create_graph=True
        )
        results.append(torch.autograd.grad(first.square().sum(), f_w, retain_graph=True)[0])
    assert_close(results[0], results[1], 1e-4, "second derivative")


def small_layer():
    torch.manual_seed(1)
    names = {"out": 16, "in": 16, "h": 3, "w": 3}
    kernel = CPKernel(torch.randn(8), {n: torch.randn(size, 8) for n, size in names.items()})
    return (lambda x, form: cp_conv(x, kernel, padding=1, implementation=form)), torch.randn(2, 16, 6, 6)


@pytest.mark.parametrize("form", ["auto", "fused"])
def test_forward_derivatives_and_transforms_take_operations_that_know_them(form):
    convolve, x = small_layer()
    tangent = torch.randn_like(x)
    expected = convolve(tangent, "reconstructed")  # the convolution is linear
    with forward_ad.dual_level():
        out = convolve(forward_ad.make_dual(x, tangent), form)
        assert_close(forward_ad.unpack_dual(out).tangent, expected, 1e-5, "forward mode")
    assert_close(torch.func.jvp(lambda x: convolve(x, form), (x,), (tangent,))[1], expected, 1e-5, "jvp")
    per_sample = torch.func.vmap(torch.func.grad(lambda x: convolve(x, form).square().sum()))(x)
    y = x.clone().requires_grad_()
    convolve(y, form).square().sum().backward()
    assert_close(per_sample, y.grad, 1e-5, "gradients per sample")


def test_pytorchs_counter_counts_the_operator_as_the_form_it_is_equal_to():
    convolve, x = small_layer()
    totals = []
    for form in ("fused", "mobilenet"):
        with FlopCounterMode(display=False) as counter:
            y = x.clone().requires_grad_()
            convolve(y, form)
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0
    with FlopCounterMode(display=False) as counter:
        convolve(x.clone().requires_grad_(), "fused").sum().backward()
    assert 2 * totals[0] < counter.get_total_flops() < 4 * totals[0]


WRONG = {
    "channels": {0: torch.randn(2, 5, 5, 8, 7)},
    "rank": {4: torch.randn(3, 19)},
    "bias": {7: torch.randn(3)},
    "stride": {8: [0, 1, 1]},
    "a stride in time without taps in time": {4: None, 8: [2, 1, 1]},
}


@pytest.mark.parametrize("case", WRONG)
def test_sizes_that_do_not_fit_are_refused_before_they_are_pointers(case):
    arguments = layer()
    for index, value in WRONG[case].items():
        arguments[index] = value
    with pytest.raises(ValueError, match="sizes must fit together"):
        fused_cp_conv(*arguments)


def moving(images: tuple[int, ...] = (6, 5, 4, 3), components: int = 7) -> list:
    """Arguments of small motion components."""
    torch.manual_seed(0)
    factors = [torch.randn(size, components) for size in (images[1], 3, images[1])]
    return [torch.randn(images).contiguous(memory_format=torch.channels_last), *factors, 3, 1, False]


def test_pytorch_accepts_the_operator_of_motion():
    torch.library.opcheck(add_motion, tuple(moving()))


def test_threads_do_not_change_motion():
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            arguments = moving((6, 40, 9, 11))
            add_motion(*arguments)
            found.append(arguments[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_pytorchs_counter_counts_motion_as_its_cost():
    with FlopCounterMode(display=False) as counter:
        add_motion(*moving())
    assert counter.get_total_flops() == 2 * motion_cost(5, 7, 3, 6 * 4 * 3).macs


@pytest.mark.parametrize(
    "change",
    [{0: torch.randn(6, 5, 4, 3)}, {1: torch.randn(6, 7)}, {2: torch.randn(3, 6)}, {3: torch.randn(4, 7)},
     {4: 4}, {4: 0}, {5: 3}, {5: -1}, {1: torch.randn(5, 7).double()}, {3: torch.randn(5, 7).half()}],
)  # fmt: skip
def test_motion_that_does_not_fit_is_refused_before_it_is_pointers(change):
    arguments = moving()
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(ValueError, match="sizes must fit together, all be float32, and channels be innermost"):
        add_motion(*arguments)


@pytest.mark.parametrize("empty", [{"images": (0, 5, 4, 3)}, {"images": (6, 5, 0, 3)}, {"components": 0}])
def test_where_there_is_nothing_there_is_no_motion(empty):
    arguments = moving(**empty)
    before = arguments[0].clone()
    add_motion(*arguments)
    assert torch.equal(arguments[0], before)


@pytest.mark.parametrize("what", ["motion", "output"])
def test_a_wrong_kernel_is_noticed(what, monkeypatch):
    right, motion = calls.run_forward, calls.run_motion
    if what == "motion":
        monkeypatch.setattr(calls, "run_motion", lambda images, *rest: motion(images, *rest) or images.mul_(1.001))
    else:
        monkeypatch.setattr(calls, "run_forward", lambda *a: right(*a) * 1.001)
    with pytest.raises(
        calls.NativeUnavailableError, match=rf"its {what} is wrong on this machine, relative error 1\.0e-03"
    ):
        calls._check_arithmetic()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_steps_equal_the_dense_convolution_of_all_frames(data):
    """New frames of some streams behind components that were kept, of which the kernel gives those of the new ones."""
    draw, channels = data.draw, st.integers(1, 40)
    c, o, r = draw(channels), draw(channels), draw(st.one_of(channels, st.just(32)))
    taps, size = draw(st.tuples(*[st.integers(1, 4)] * 3)), draw(st.tuples(*[st.integers(1, 9)] * 2))
    stride, dilation = draw(st.tuples(*[st.integers(1, 3)] * 2)), draw(st.tuples(*[st.integers(1, 2)] * 3))
    pads = draw(st.lists(st.integers(0, 4), min_size=4, max_size=4))
    streams, frames = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    reach = [size[a] + sum(pads[2 * a : 2 * a + 2]) - dilation[a + 1] * (taps[a + 1] - 1) for a in (0, 1)]
    torch.manual_seed(draw(st.integers(0, 99)))
    factors = Factors(torch.randn(r), *(torch.randn(n, r) for n in (o, c, *taps)))
    bias = torch.randn(o) if draw(st.booleans()) else None
    length = (taps[0] - 1) * dilation[0]
    clip = torch.randn(streams, c, length + frames, *size)
    window = ((1, *stride), [0, 0, *pads], dilation)
    images = clip[:, :, length:].transpose(1, 2).flatten(0, 1)
    if draw(st.booleans()):
        images = images.contiguous(memory_format=torch.channels_last)
    if min(reach) < 1:
        with pytest.raises(ValueError, match="sizes must fit together"):
            StepPlan(pack_factors(factors, bias), window, images.shape, streams)
        return
    projected = torch.einsum("nithw,ir->ntrhw", clip, factors.in_).flatten(0, 1)
    hw = torch.einsum("hr,wr->rhw", factors.h, factors.w).unsqueeze(1)
    padded = F.pad(projected, [*pads[2:], *pads[:2]])
    kept = F.conv2d(padded, hw, stride=stride, dilation=dilation[1:], groups=r).unflatten(0, (streams, -1))
    plan = StepPlan(pack_factors(factors, bias), window, images.shape, streams)
    found, new = plan(images, [list(own[:length].unsqueeze(1)) for own in kept])
    double = [None if f is None else f.double() for f in (clip, *factors, bias)]
    expected = dense(*double, *window)
    if expected.abs().max() > 0:
        assert_close(found, expected.transpose(1, 2).flatten(0, 1), 2e-5, "output")
        assert_close(new, kept[:, length:].flatten(0, 1), 2e-5, "memory")


def test_a_step_takes_nothing_but_what_was_planned():
    """Past its door sizes are pointers."""
    factors = Factors(torch.randn(16), *(torch.randn(n, 16) for n in (5, 4, 3, 3, 3)))
    plan = StepPlan(pack_factors(factors, None), ((1, 1, 1), [0] * 2 + [1] * 4, (1, 1, 1)), (2, 4, 6, 6), 2)
    images, past = torch.randn(2, 4, 6, 6), [[torch.randn(1, 16, 6, 6)] * 2] * 2
    plan(images, past)
    smaller = [past[0], [past[1][0], torch.randn(1, 16, 6, 5)]]
    for bad in ((images[:1], past), (images.double(), past), (images, past[:1]), (images, [past[0], past[1][:1]]),
                (images, smaller)):  # fmt: skip
        with pytest.raises(ValueError, match="of the past of each were planned"):
            plan(*bad)
    with pytest.raises(ValueError, match="sizes must fit together"):
        pack_factors(factors._replace(t=None), None)
    with pytest.raises(ValueError, match="sizes must fit together"):
        StepPlan(pack_factors(factors, None), ((1, 1, 1), [0] * 6, (1, 1, 1)), (3, 4, 6, 6), 2)
