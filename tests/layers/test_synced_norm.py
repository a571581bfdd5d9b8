"""Two gloo processes with parts of a batch against one process with all of it: the plain layers of torch and timm."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hocp_mm.layers.synced_norm import sync_norms_
from tests.laws import assert_close

SHAPES = {1: (7, 3, 5), 2: (7, 3, 5, 5), 3: (7, 3, 4, 3, 3)}


def network(dim: int = 2, **options: Any) -> nn.Sequential:
    """Two convolutions, a norm before and after each, one of them with its activation inside where timm has that."""
    conv, norm = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1], (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim - 1]
    last = BatchNormAct2d(2, act_layer=nn.SiLU, **options) if dim == 2 else norm(2, **options)
    return nn.Sequential(norm(3), conv(3, 4, 3), norm(4, **options), nn.ReLU(), conv(4, 2, 1), last)


CASES: dict[str, tuple[int, dict[str, Any], list[int]]] = {
    "3-D, equal shares": (3, {}, [3, 4]),
    "2-D with an activation inside, unequal shares": (2, {}, [1, 6]),
    "1-D": (1, {}, [5, 2]),
    "a process without a sample": (2, {}, [7, 0]),
    "cumulative average": (2, {"momentum": None}, [4, 3]),
    "no running statistics": (2, {"track_running_stats": False}, [4, 3]),
    "no weights": (2, {"affine": False}, [4, 3]),
}


def batch(dim: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A batch far from zero, where E[x^2] - E[x]^2 would lose its digits, and weights of a loss on the output."""
    generator = torch.Generator().manual_seed(dim)
    shape = SHAPES[dim]
    x = 1000 + torch.randn(shape, generator=generator, dtype=torch.float64)
    sides = [side - 2 for side in shape[2:]]
    return x.to(dtype), torch.randn(shape[0], 2, *sides, generator=generator, dtype=torch.float64).to(dtype)


def train_twice(model: nn.Module, x: Tensor, weights: Tensor, factor: float = 1.0) -> dict[str, Tensor]:
    """Two forward passes, for running averages, and the gradients of the second."""
    model(x)
    x = x.clone().requires_grad_()
    output = model(x)
    (factor * (output * weights).sum()).backward()
    assert x.grad is not None
    return {"output": output.detach(), "input gradient": x.grad / factor}


def compare(rank: int, case: str) -> None:
    dim, options, shares = CASES[case]
    torch.manual_seed(0)
    whole = network(dim, **options).double()
    split = copy.deepcopy(whole)
    x, weights = batch(dim)
    expected = train_twice(whole, x, weights)
    names = list(split.state_dict())
    assert sync_norms_(split) == ["0", "2", "5"]
    # As EMAHook copies, and DDP wraps before hooks run.
    wrapped = DistributedDataParallel(copy.deepcopy(split))
    assert sync_norms_(wrapped) == ["module.0", "module.2", "module.5"]
    part = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    # DDP divides by the number of processes; the oracle's loss is a sum.
    got = train_twice(wrapped, x[part], weights[part], factor=2)
    for what, value in got.items():
        assert_close(value, expected[what][part], 1e-6, f"{case}: {what} of process {rank}")
    ours = wrapped.module
    assert list(ours.state_dict()) == names
    for (name, p), q in zip(ours.named_parameters(), whole.parameters(), strict=True):
        # Not relative: the norm behind makes some of these gradients zero but for rounding.
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{case}, {n}: {m}")
    for (name, b), c in zip(ours.named_buffers(), whole.buffers(), strict=True):
        assert_close(b.double(), c.double(), 1e-6, f"{case}: {name}")
    # Batches of validation may differ in number and size, so nothing may be exchanged there: process 1 takes no part.
    if rank == 0 and options.get("track_running_stats", True):
        plain = network(dim, **options).double().eval()
        plain.load_state_dict(ours.state_dict())
        assert torch.equal(ours.eval()(x), plain(x)), f"{case}: evaluation"


def compare_half(rank: int) -> None:
    """Under autocast a norm gets bfloat16: statistics are float32 ones, and the kind of the output stays."""
    layer, (x, _weights) = nn.BatchNorm2d(3), batch(2, torch.float32)
    x = (x - 990).to(torch.bfloat16)
    plain = copy.deepcopy(layer)
    expected = plain(x)
    sync_norms_(layer)
    part = slice(0, 3) if rank == 0 else slice(3, 7)
    output = layer(x[part].requires_grad_())
    output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert_close(output.float(), expected[part].float(), 1e-2, "bfloat16 output")
    assert_close(layer.running_var, plain.running_var, 1e-5, "running variance")


def refuse_foreign_forward() -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return input - input.mean((0, 2, 3), keepdim=True)

    layer = nn.Sequential(Own(3))
    sync_norms_(layer)
    with pytest.raises(NotImplementedError, match=r"through torch\.nn\.functional\.batch_norm, got Own"):
        layer(batch(2, torch.float32)[0])


def start(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{folder}/rendezvous")
    try:
        for case in CASES:
            compare(rank, case)
        compare_half(rank)
        refuse_foreign_forward()
        Path(folder, f"process {rank} is through").touch()
        # torch 2.4 waits for ever where the group ends before its thread has let go of the last gathering.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def test_two_processes_compute_what_one_does_with_the_whole_batch(tmp_path):
    # `spawn` raises again what fails in a process. All cases in one pair of them: starting takes longer than they do.
    torch.multiprocessing.spawn(start, (str(tmp_path),), nprocs=2)
    assert len(list(tmp_path.glob("process * is through"))) == 2


@pytest.mark.parametrize("training", [True, False])
def test_one_process_computes_as_before(training):
    plain = network().train(training)
    synced = copy.deepcopy(plain)
    sync_norms_(synced)
    x = batch(2, torch.float32)[0]
    assert torch.equal(synced(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(synced.buffers(), plain.buffers(), strict=True))


def test_a_synced_norm_is_still_what_it_was():
    model = network()
    norm = model[5]
    sync_norms_(model)
    assert sync_norms_(model) == ["0", "2", "5"], "a second call changes nothing"
    assert model[5] is norm
    assert isinstance(norm, BatchNormAct2d)
    assert isinstance(norm.act, nn.SiLU)
    again = pickle.loads(pickle.dumps(model))
    assert type(again[5]) is type(norm)
    x = batch(2, torch.float32)[0]
    assert torch.equal(again(x), model(x))


def test_lazy_norms_are_refused():
    with pytest.raises(ValueError, match=r"must know their channels, got LazyBatchNorm2d .layer '1'"):
        sync_norms_(nn.Sequential(nn.ReLU(), nn.LazyBatchNorm2d()))


def test_the_function_it_answers_is_the_one_that_torch_calls():
    # Were torch to rename it, training in several processes would raise; this tells why.
    assert nn.modules.batchnorm.F.batch_norm is F.batch_norm
