"""`--amp` on a CPU."""

import contextlib

import torch
from mmengine.optim import OptimWrapper

from hocp_mm.compat.mixed_precision import CPUAmpOptimWrapper
from hocp_mm.registry import OPTIM_WRAPPERS


def test_cpu_mixed_precision_runs_the_forward_pass_in_bfloat16():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build({"type": "hocp_mm.CPUAmpOptimWrapper", "optimizer": optimizer})
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        output = model(torch.ones(1, 2))
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().mean())
    torch.testing.assert_close(model.weight, before - 0.1)
    assert model.weight.dtype == torch.float32


def test_cpu_mixed_precision_still_accumulates_without_synchronising():
    """`optim_context` of the base class must stay inside ours: it is what calls `no_sync`."""
    entered = []

    class Parallel(torch.nn.Linear):
        @contextlib.contextmanager
        def no_sync(self):
            """Stand for DistributedDataParallel.no_sync."""
            entered.append(True)
            yield

    model = Parallel(2, 1)
    for kind in (OptimWrapper, CPUAmpOptimWrapper):
        wrapper = kind(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=4)
        wrapper.initialize_count_status(model, 0, 8)
        with wrapper.optim_context(model):
            model(torch.ones(1, 2))
    assert entered == [True, True]
