"""The compiled kernel against dense float64 operations, for every memory order, and as a PyTorch operator."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hocp_mm.functional.native import calls, fused_cp_conv, native_available
from tests.laws import assert_close

pytestmark = pytest.mark.skipif(not native_available(), reason="no C++ compiler with OpenMP on this machine")

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


def test_a_second_derivative_is_refused_not_wrong():
    arguments = layer(requires_grad=True)
    (first,) = torch.autograd.grad(fused_cp_conv(*arguments).square().sum(), arguments[0], create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.autograd.grad(first.sum(), arguments[1])


def test_a_wrong_kernel_is_noticed(monkeypatch):
    right = calls.run_forward
    monkeypatch.setattr(calls, "run_forward", lambda *a: right(*a) * 1.001)
    with pytest.raises(
        calls.NativeUnavailableError, match=r"its output is wrong on this machine, relative error 1\.0e-03"
    ):
        calls._check_arithmetic()
