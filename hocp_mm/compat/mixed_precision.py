"""Mixed precision on CPUs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from hocp_mm.registry import OPTIM_WRAPPERS

__all__ = ["CPUAmpOptimWrapper"]


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Run the forward pass in bfloat16 autocast on the CPU.

    Fault: MMEngine's ``AmpOptimWrapper`` asserts that there is a GPU, so ``--amp`` ends in an AssertionError.
    Where: MMEngine 0.10.7 and 0.11.0rc3.
    Cure: ``optim_wrapper = dict(type='hocp_mm.CPUAmpOptimWrapper', optimizer=…)``. bfloat16 has float32's range, so
        there is no loss scaling.

    Takes the arguments of ``mmengine.optim.OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Wrap one forward pass; gradient accumulation works as in the base class."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
