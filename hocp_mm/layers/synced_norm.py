r"""Batch norms that take their statistics over the batches of all processes.

With the values x of one channel spread over processes p, n_p of them on each::

    mean_p = sum x / n_p                      M_p = sum (x - mean_p)^2
    n = sum n_p     mean = sum n_p mean_p / n     M = sum M_p + n_p (mean_p - mean)^2     var = M / n

(Chan, Golub, LeVeque 1979): no difference of large squares, and any share of the batch on each process.

Why not ``torch.nn.SyncBatchNorm``: it refuses tensors on a CPU, and its conversion replaces a subclass such as timm's
``BatchNormAct2d`` by a bare norm, which loses the activation inside without a word. Here a layer keeps its class and
its own forward pass; only the call of ``F.batch_norm`` inside it is answered differently.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode

from hocp_mm.layers.tracing import fx_leaf


def sync_norms_(model: nn.Module) -> list[str]:
    """Let every batch norm of a model take its training statistics over all processes of the default group.

    Parameters, buffers, their names and the layers' objects stay. Evaluation, and training in one process, compute
    what they did. In training, all processes must run the same norms in the same order. Gradients of weights and
    biases are those of the process's own batch, for DistributedDataParallel to average. Other layers that look at
    the whole batch (EvoNorm-B, in-place ABN, decorrelating norms) are left alone.

    Args:
        model: The network, wrapped for distributed training or not; its norms change their class.

    Returns:
        Names of the norms that are synchronised now; ``torch.nn.SyncBatchNorm`` is not among them.

    Raises:
        ValueError: If a lazy norm has not seen its first batch yet.
    """
    names = []
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, nn.SyncBatchNorm):
            continue
        if isinstance(module, LazyModuleMixin):
            raise ValueError(
                f"sync_norms_: norms must know their channels, got {type(module).__name__} (layer '{name}'; "
                "run one batch through the model first)."
            )
        if not isinstance(module, _SyncedForward):
            module.__class__ = _synced_class(type(module))
        names.append(name)
    return names


class _SyncedForward(_BatchNorm):
    """What a synchronised norm has in front of its own class."""

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Run the layer's own forward pass over the statistics of all processes."""
        if not self.training or _world_size() == 1:
            return super().forward(input)
        with _SyncedStatistics() as statistics:
            output = super().forward(input)
        if not statistics.used:
            raise NotImplementedError(
                f"sync_norms_: a batch norm must compute through torch.nn.functional.batch_norm, "
                f"got {type(self).__mro__[2].__name__}."
            )
        return output

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle and copy by the class underneath: that of this object exists at run time only."""
        return _rebuild, (type(self).__mro__[2],), self.__dict__


@cache
def _synced_class(base: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Synced{base.__name__}", (_SyncedForward, base), {"__module__": __name__, "__doc__": base.__doc__})


def _rebuild(base: type[_BatchNorm]) -> _BatchNorm:
    synced = _synced_class(base)
    return synced.__new__(synced)


def _world_size() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _SyncedStatistics(TorchFunctionMode):
    """Answer ``F.batch_norm`` in training with the statistics of all processes."""

    used = False  # whether the layer asked at all

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace one function and pass every other on."""
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        self.used = True
        return _batch_norm(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:  # a subclass that freezes itself
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    output, mean, var, count = _Normalise.apply(input, weight, bias, eps)  # pyright: ignore[reportGeneralTypeIssues]
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = var * (count / (count - 1).clamp(min=1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return output


class _Normalise(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over all processes; also mean, variance and count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        """Exchange ``2 C + 1`` numbers, then normalise."""
        mean, var, count = _joint_moments(x)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        kind = mean.dtype if weight is None else weight.dtype
        output = F.batch_norm(x, mean.to(kind), var.to(kind), weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, var, count)
        return output, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - once_differentiable hides the names
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Exchange ``2 C`` numbers: the statistics depend on every process's input."""
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        grad = grads[0].to(mean.dtype)  # the statistics that come along pass no gradient
        normed = (x.to(mean.dtype) - _row(mean, x)).mul_(_row(inverse_std, x))
        sums = torch.stack([grad.sum(_others(x)), (grad * normed).sum(_others(x))])
        grad_weight = sums[1].to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = sums[0].to(mean.dtype if weight is None else weight.dtype) if ctx.needs_input_grad[2] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            joint = sums.clone()
            distributed.all_reduce(joint)
            joint = joint / count
            scale = inverse_std if weight is None else inverse_std * weight.to(mean.dtype)
            grad_x = grad - normed.mul_(_row(joint[1], x)).add_(_row(joint[0], x))
            grad_x = grad_x.mul_(_row(scale, x)).to(x.dtype)
        return grad_x, grad_weight, grad_bias, None


def _joint_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance ``[C]`` over the batches of all processes, and how many values each channel has."""
    # Half precision holds neither sums nor the counts.
    wide = x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x
    own = x.numel() // x.shape[1]
    mean = wide.sum(_others(x)) / max(own, 1)
    deviations = (wide - _row(mean, x)).square_().sum(_others(x))
    message = torch.cat([mean, deviations, mean.new_full((1,), own)])
    messages = [torch.empty_like(message) for _ in range(_world_size())]
    distributed.all_gather(messages, message)
    means, squares, counts = torch.stack(messages).split([x.shape[1], x.shape[1], 1], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    variance = (squares + counts * (means - mean).square()).sum(0) / count
    return mean, variance, count


def _others(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _row(values: Tensor, x: Tensor) -> Tensor:
    """Shape one value per channel for arithmetic with ``x``."""
    return values.view(1, -1, *([1] * (x.ndim - 2)))
