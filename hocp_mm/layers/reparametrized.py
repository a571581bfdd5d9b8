"""Factors that ``torch.nn.utils`` computes of other parameters."""

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_COMPUTE = (WeightNorm, SpectralNorm, BasePruningMethod)


def refresh_(factors: nn.Module) -> None:
    """Compute the factors that hooks make of other parameters: a dict of parameters has no forward pass to hook.

    ``weight_norm``, ``spectral_norm`` and ``prune`` of ``torch.nn.utils`` leave a tensor in the place of a parameter,
    and a forward pre-hook that replaces it. Without it the tensor would stay what it was at first. Parametrizations
    need no such help.
    """
    for hook in tuple(factors._forward_pre_hooks.values()):
        if isinstance(hook, _COMPUTE):  # others, such as those of tracers, wait for a forward pass
            hook(factors, ())
