"""The fused form: a CP convolution in one pass over the data, where the compiled kernel can do it.

Orders 1 and 2 are clips with one frame, or one row; frames folded into the batch are a clip in another memory order. So
one kernel serves all, and nothing is copied on the way.
"""

import torch
from torch import Tensor

from hocp_mm.functional.context import is_exporting, is_transformed
from hocp_mm.functional.cp import CPKernel
from hocp_mm.functional.native import fused_cp_conv, native_available
from hocp_mm.functional.padding import Window, pad


def fused_fits(x: Tensor, kernel: CPKernel, bias: Tensor | None, window: Window) -> bool:
    """Tell whether the compiled kernel can convolve ``x``: float32 on CPU, one group, 1 to 3 convolved modes.

    Returns:
        False also under autocast, which asks for another dtype; under transforms and while exporting, which do not know
        its operator; and where nothing comes out, so that PyTorch says what is wrong.
    """
    tensors = [x, kernel.weights, *kernel.factors.values(), *([] if bias is None else [bias])]
    return (
        not is_transformed()
        and kernel.groups == 1
        and kernel.kernel_order <= 3
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        and x.layout == torch.strided
        and x.numel() > 0
        and all(window.output_size(x.shape[2:], kernel.kernel_size))
        and not torch.is_autocast_enabled("cpu")
        and not is_exporting()
        and native_available()
    )


def fused(x: Tensor, kernel: CPKernel, bias: Tensor | None, window: Window) -> Tensor:
    """Convolve batched ``x`` ``[batch, in, *sizes]`` with the compiled kernel; see :func:`fused_fits`.

    Returns:
        ``[batch, out, *output sizes]`` in the memory format of ``x``.
    """
    stride, pads, dilation, padding_mode = window
    missing = 3 - kernel.kernel_order
    if padding_mode != "zeros":
        # Padding x instead of the components is the same, since the input projection has no bias.
        x, pads = pad(x, pads, padding_mode)[0], ((0, 0),) * kernel.kernel_order
    ones = (1,) * missing
    clip = x.reshape(*x.shape[:2], *ones, *x.shape[2:]) if missing else x
    factors = kernel.factors
    out = fused_cp_conv(
        clip,
        kernel.weights,
        factors["out"],
        factors["in"],
        factors.get("t"),
        factors.get("h"),
        factors["w"],
        bias,
        [*ones, *stride],
        [*(0,) * (2 * missing), *(p for pair in pads for p in pair)],
        [*ones, *dilation],
    )
    return out.reshape(*out.shape[:2], *out.shape[2 + missing :]) if missing else out
