"""What is at work around a call: transforms, tracers, counters. They decide which forms of a convolution may run."""

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

_TELLS_OF_EXPORT = hasattr(torch.compiler, "is_exporting")  # torch >= 2.7


def is_transformed() -> bool:
    """Tell whether a ``torch.func`` transform or forward-mode differentiation is at work.

    Returns:
        True where the compiled kernel must not run: its forward derivative would be lost without an error. Before
        torch 2.7 also wherever dynamo is tracing, which on 2.4 cannot follow the question.
    """
    if not _TELLS_OF_EXPORT and torch.compiler.is_compiling():
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_exporting() -> bool:
    """Tell whether a program is being recorded that must run without this package."""
    # Counters of operations, such as mmengine's, trace and know only those of PyTorch.
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return (_TELLS_OF_EXPORT and torch.compiler.is_exporting()) or torch.onnx.is_in_onnx_export() or tracing


def is_traced_to_torchscript() -> bool:
    """Tell whether ``torch.jit.trace`` is at work, and not another user of its tracer (mmengine's counters, ONNX)."""
    jit: Any = torch.jit
    return jit.is_tracing() and jit._trace._trace_module_map is not None and not torch.onnx.is_in_onnx_export()


def is_observed() -> bool:
    """Tell whether somebody follows the operations of this call, who should not see trial runs.

    Returns:
        True in modes such as ``FlopCounterMode``, which would count them, and under checkpointing, which compares what
        two runs save; before torch 2.5, which does not tell of checkpointing, always.
    """
    autograd = torch._C._autograd  # pyright: ignore[reportAttributeAccessIssue]
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)
    return _get_current_dispatch_mode() is not None or top is None or top(True) is not None
