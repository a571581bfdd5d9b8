"""Are numbers numbers: NaN and infinities among weights and gradients, at the price of one pass."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def seems_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Tell for many tensors at once whether all their values are finite, without waiting for the device.

    Args:
        tensors: Floating tensors of any shapes; sparse ones, too.

    Returns:
        A bool of no dimension, on the device of the first one. True is certain; False can be a norm that overflowed,
        where values are finite and above 1e19.
    """
    if not tensors:
        return torch.tensor(True)
    dense = [tensor.detach()._values() if tensor.is_sparse else tensor.detach() for tensor in tensors]
    norms = cast("Any", torch)._foreach_norm(dense)  # also what torch.nn.utils.clip_grad_norm_ calls
    device = norms[0].device
    return torch.stack([norm.to(device, torch.float32) for norm in norms]).isfinite().all()


def non_finite(tensor: Tensor) -> str | None:
    """Return ``'nan'`` or ``'inf'``, whichever the tensor holds, NaN first; None if all values are finite."""
    values = tensor.detach()._values() if tensor.is_sparse else tensor.detach()
    if bool(values.isfinite().all()):
        return None
    return "nan" if bool(values.isnan().any()) else "inf"


def first_non_finite(model: nn.Module) -> str | None:
    """Find NaN or infinite weights.

    Args:
        model: The network, wrapped or not.

    Returns:
        Name of the first parameter or buffer of ``state_dict`` that is not finite, under its name there; None if there
        is none. An infinity is a fault in parameters and running statistics; other buffers may hold it, as masks do.
    """
    state = {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor) and not is_lazy(tensor) and (tensor.is_floating_point() or tensor.is_complex())
    }
    if bool(seems_finite(list(state.values()))):
        return None
    for name, tensor in state.items():
        kind = non_finite(tensor)
        if kind == "nan" or (kind and (isinstance(tensor, nn.Parameter) or "running_" in name)):
            return name
    return None
