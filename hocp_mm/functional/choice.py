"""Which form of a CP convolution is the fastest for a layer, an input and a machine.

Where the compiled kernel can run and CP needs at most half the multiplications of the dense convolution, it always wins
and nothing is measured. Elsewhere (another dtype or device, large ranks, short kernels) no rule holds: PyTorch's own
convolutions differ by up to ten times between memory formats, dtypes and sizes. There the forms are timed once per kind
of layer and input, with the backward pass where gradients are needed, and the answer is kept for the process, as
``torch.backends.cudnn.benchmark`` does. Batch sizes within a factor of two share an answer.

Nothing is timed while tracing or exporting, in ``torch.func`` transforms, where somebody counts operations or saved
tensors, on meta tensors, under ``torch.use_deterministic_algorithms(True)`` or after ``allow_measuring(False)``, which
is what a training with a seed calls: the forms agree to rounding only, and a measurement may fall out differently
tomorrow. A count of multiplications decides then.
"""

import time
from collections.abc import Callable
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hocp_mm.functional.clock import wait_for
from hocp_mm.functional.context import is_exporting, is_observed, is_transformed
from hocp_mm.functional.cp import CPKernel

Form = Literal["factorized", "mobilenet", "fused", "reconstructed"]
Implementation = Literal["auto", "factorized", "mobilenet", "fused", "reconstructed"]
IMPLEMENTATIONS = get_args(Implementation)  # here: dynamo of torch 2.4 cannot follow get_args
Run = Callable[[Form, Tensor, CPKernel], Tensor]

ROUNDS = 4
_SMALL = 2_000_000
"""Dense multiplications below which a call is all overhead and timing it would be noise."""
_kept: dict[tuple[Any, ...], Form] = {}
_measuring_allowed = True


def allow_measuring(allowed: bool) -> None:
    """Let ``'auto'`` time forms in this process, or decide by a rule that gives the same form every time.

    Args:
        allowed: Whether to measure, as at the start of the process.
    """
    global _measuring_allowed  # a setting of the process, as that of torch is
    _measuring_allowed = allowed


def run_form(
    run: Run,
    x: Tensor,
    kernel: CPKernel,
    implementation: Implementation,
    settings: tuple[Any, ...],
    *,
    can_fuse: bool,
    can_rebuild: bool,
    recompute: bool,
) -> Tensor:
    """Resolve ``implementation`` and run that form.

    Args:
        run: Convolves with a given form.
        x: Input.
        kernel: The CP kernel.
        implementation: A form or ``'auto'``; ``'fused'`` becomes ``'mobilenet'`` where the compiled kernel cannot run.
        settings: What else the time depends on: stride, padding, dilation.
        can_fuse: Whether the compiled kernel can run.
        can_rebuild: Whether the dense kernel gives the same numbers (no inner function, no gate).
        recompute: Whether the backward pass computes the activations of the components again.

    Returns:
        What ``run`` returns.
    """

    def keeping_little(form: Form, x: Tensor, kernel: CPKernel) -> Tensor:
        if form in ("factorized", "mobilenet"):
            # A gate may draw random numbers, which the second run must draw again.
            repeatable = can_rebuild
            return checkpoint(run, form, x, kernel, use_reentrant=False, preserve_rng_state=not repeatable)  # pyright: ignore
        return run(form, x, kernel)

    step = keeping_little if recompute else run
    if implementation == "auto":
        settings = (*settings, recompute)
        form = choose_form(step, x, kernel, settings, can_fuse=can_fuse, can_rebuild=can_rebuild)
    else:
        form = "mobilenet" if implementation == "fused" and not can_fuse else implementation
    return step(form, x, kernel)


def choose_form(
    run: Run, x: Tensor, kernel: CPKernel, settings: tuple[Any, ...], *, can_fuse: bool, can_rebuild: bool
) -> Form:
    """Pick the form for ``'auto'``; see the module and, for the arguments, :func:`run_form`.

    Returns:
        The form.
    """
    factorized, dense = multiplications(kernel)
    if can_fuse and 2 * factorized <= dense:
        return "fused"
    if not can_rebuild or not _may_measure(x) or dense * prod(x.shape[2:]) * x.shape[0] < _SMALL:
        return by_count(x, kernel, can_fuse=can_fuse, can_rebuild=can_rebuild)
    # Sizes are exact, the batch is not: the last batch of an epoch should not be measured again.
    learnt = (x, kernel.weights, *kernel.factors.values())
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learnt)
    autocast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
    key = (
        x.shape[0].bit_length(), *x.shape[1:], x.dtype, x.device, _order_of(x), kernel.shape, kernel.rank,
        kernel.groups, settings, needs_grad, can_fuse, autocast, torch.get_num_threads(),
    )  # fmt: skip
    if key not in _kept:
        forms: tuple[Form, ...] = ("factorized", "mobilenet", "reconstructed")
        _kept[key] = fastest(x, kernel, run, ("fused", *forms) if can_fuse else forms, needs_grad)
    return _kept[key]


def multiplications(kernel: CPKernel) -> tuple[int, int]:
    """Count multiplications per output position: of the CP form with merged taps, and of the dense kernel."""
    out, per_group, *taps = kernel.shape
    return kernel.rank * (per_group + out // kernel.groups + prod(taps)), out * per_group * prod(taps)


def cheapest(kernel: CPKernel) -> Literal["mobilenet", "reconstructed"]:
    """Pick the form with fewer multiplications per output position."""
    factorized, dense = multiplications(kernel)
    return "mobilenet" if factorized <= dense else "reconstructed"


def by_count(x: Tensor, kernel: CPKernel, *, can_fuse: bool, can_rebuild: bool) -> Form:
    """Pick a form without running any."""
    if can_rebuild and cheapest(kernel) == "reconstructed":
        return "reconstructed"
    if can_fuse:
        return "fused"
    # PyTorch has no fast depthwise convolution over three modes in float64; single axes avoid 27 taps.
    return "factorized" if x.dtype == torch.float64 and kernel.kernel_order >= 3 else "mobilenet"


def fastest(x: Tensor, kernel: CPKernel, run: Run, forms: tuple[Form, ...], needs_grad: bool) -> Form:
    """Time ``forms`` in turns, on copies, and return the one with the shortest run.

    Returns:
        One of ``forms``.
    """
    x = x.detach().requires_grad_(needs_grad)
    copies = {n: f.detach().requires_grad_(needs_grad) for n, f in kernel.factors.items()}
    kernel = CPKernel(kernel.weights.detach().requires_grad_(needs_grad), copies, kernel.groups)
    shortest = dict.fromkeys(forms, float("inf"))
    with torch.set_grad_enabled(needs_grad):
        for turn in range(ROUNDS + 1):
            limit = 3 * min(shortest.values())
            for form in forms:
                # The first turn builds primitives and tunes libraries; what loses the next two by far is out
                # of the race (one alone may have been disturbed).
                if turn > 2 and shortest[form] > limit:
                    continue
                elapsed = _timed(run, form, x, kernel, needs_grad)
                if turn:
                    shortest[form] = min(shortest[form], elapsed)
    return min(forms, key=lambda form: shortest[form])


def _timed(run: Run, form: Form, x: Tensor, kernel: CPKernel, needs_grad: bool) -> float:
    wait_for(x.device)
    start = time.perf_counter()
    out = run(form, x, kernel)
    if needs_grad:
        torch.autograd.grad(out, [x, kernel.weights, *kernel.factors.values()], torch.ones_like(out))
    wait_for(x.device)
    return time.perf_counter() - start


def _may_measure(x: Tensor) -> bool:
    return _measuring_allowed and not (
        torch.compiler.is_compiling()
        or is_exporting()
        or is_transformed()
        or is_observed()
        or x.device.type == "meta"
        or type(x) not in (Tensor, torch.nn.Parameter)  # fake tensors and other subclasses
        or torch.are_deterministic_algorithms_enabled()
        or (x.device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def _order_of(x: Tensor) -> tuple[int, ...]:
    """Dimensions from slowest to fastest, of those that have more than one element."""
    return tuple(sorted((d for d in range(x.ndim) if x.shape[d] > 1), key=lambda d: -x.stride(d)))
