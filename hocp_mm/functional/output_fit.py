"""Fit a CP kernel to the outputs that a layer should have, by least squares on second moments.

With input patches x ``[in * taps]``, wanted outputs y and a kernel K ``[out, in * taps]``, the mean of
``(y - K x - b)^T H (y - K x - b)`` is a function of the centred moments of (x, y) alone, and however many samples were
seen, only these are kept. For given other factors the output factor and the bias are those of a linear regression; they
are put in place (variable projection; Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973), and the input and tap factors
descend what is left by L-BFGS: one product of ``[rank, in * taps]`` with the moment per step.

Few samples do not say what a kernel of many inputs should do everywhere. Made-up ones say the rest: inputs of the
moment ``P0``, a Kronecker product of the moment of the channels and that of the taps, which few samples estimate well,
for which the dense kernel's outputs are wanted. As many of them as a patch has entries, a few times, are little among
the positions of an early layer, and hold a late one where there are fewer positions than entries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hocp_mm.functional.als import ridge_solver
from hocp_mm.functional.cp import CPKernel, balance, dense_kernel
from hocp_mm.functional.group_fit import whitening

PRIOR, MAX_ITER = 4.0, 15
_SMALL = 1e-30
_TINY = 1e-4  # of the identity, in the made-up samples
_RIDGE = 1e-6  # keeps the regression solvable where components repeat each other
_HISTORY = 10


class OutputMoments:
    """Sums over samples of input patches and wanted outputs, per group.

    Args:
        groups: Of the layer.
        inputs: Entries of a patch in a group, ``in / groups * taps``, channels slowest.
        outputs: Output channels of a group.
        like: Where the sums live; they have its dtype, or float32 where that is less.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, like: Tensor) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)

        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(groups, *sizes, dtype=dtype, device=like.device)

        self.samples = 0
        self.inputs, self.cross, self.targets = zeros(inputs, inputs), zeros(inputs, outputs), zeros(outputs, outputs)
        self.input_sum, self.target_sum = zeros(inputs), zeros(outputs)

    def add(self, patches: Tensor, targets: Tensor) -> None:
        """Add samples: patches ``[groups, inputs, samples]``, targets ``[groups, outputs, samples]``."""
        x, y = patches.to(self.inputs.dtype), targets.to(self.inputs.dtype)
        self.inputs.baddbmm_(x, x.mT)
        self.cross.baddbmm_(x, y.mT)
        self.targets.baddbmm_(y, y.mT)
        self.input_sum += x.sum(-1)
        self.target_sum += y.sum(-1)
        self.samples += x.shape[-1]

    def error(self, kernel: CPKernel, bias: Tensor | None) -> float:
        """Return ``|y - K x - b| / |y|`` over all samples, without any weight."""
        rows = dense_kernel(kernel).double().flatten(1).unflatten(0, (kernel.groups, -1))  # [groups, out/groups, D]
        shift = torch.zeros_like(rows[..., 0]) if bias is None else bias.to(rows).unflatten(0, (kernel.groups, -1))
        energy = float(self.targets.diagonal(dim1=1, dim2=2).double().sum())
        # E|y - K x - b|^2, expanded
        lost = energy - 2 * float((rows.mT * self.cross).sum()) + float(((rows @ self.inputs.double()) * rows).sum())
        at_mean = (rows @ self.input_sum.double().unsqueeze(2)).squeeze(2) - self.target_sum
        lost += 2 * float((shift * at_mean).sum()) + self.samples * float(shift.square().sum())
        return (max(lost, 0.0) / energy) ** 0.5 if energy else 0.0


class OutputFit(NamedTuple):
    """A kernel and the bias that goes with it, ``[out]`` (None if none was asked for)."""

    kernel: CPKernel
    bias: Tensor | None


@torch.no_grad()
def fit_outputs(
    start: CPKernel,
    dense: Tensor,
    moments: OutputMoments,
    *,
    bias: bool = True,
    output_moment: Tensor | None = None,
    prior: float = PRIOR,
    max_iter: int = MAX_ITER,
) -> OutputFit:
    """Fit all factors of a CP kernel, and a bias, to wanted outputs.

    Args:
        start: The kernel to begin with, which gives the rank.
        dense: The kernel it stands for, ``[out, in / groups, *kernel_size]``: what is wanted on made-up inputs.
        moments: Of input patches and wanted outputs.
        bias: Whether there is one.
        output_moment: What an error of the output channels costs, ``[groups, out / groups, out / groups]``; None counts
            all alike.
        prior: Made-up samples for each entry of a patch.
        max_iter: Steps of L-BFGS. With 0 only the output factor and the bias are fitted.

    Returns:
        A balanced kernel of the same rank, in the dtype of ``start``, and the bias. The weighted error over seen and
        made-up samples is never larger than that of ``start`` with its best bias. A group whose inputs do not vary
        keeps its components.

    Raises:
        ValueError: If there is no sample, or one is not finite.
    """
    groups, reference = start.groups, start.weights
    sums = (moments.inputs, moments.cross, moments.targets)
    if not moments.samples or not all(bool(part.isfinite().all()) for part in sums):
        raise ValueError(f"fit_outputs: samples must be finite, got NaN, inf or none ({moments.samples} samples).")
    start = CPKernel(torch.ones_like(reference), {**start.factors, "out": start.factors["out"] * start.weights}, groups)
    parts: list[list[Tensor]] = []
    shifts: list[Tensor] = []
    columns = {name: factor.unflatten(1, (groups, -1)) for name, factor in start.factors.items()}
    for group in range(groups):
        problem = _Regression(dense.chunk(groups)[group], moments, group, bias, output_moment, prior)
        factors = [factor[:, group].to(problem.inputs) for factor in columns.values()]
        found, shift = problem.solve(factors, max_iter)
        parts.append(found)
        shifts.append(shift)
    joined = [torch.cat(mode, dim=1).to(reference) for mode in zip(*parts, strict=True)]
    kernel = CPKernel(start.weights, dict(zip(start.factors, joined, strict=True)), groups)
    return OutputFit(balance(kernel), torch.cat(shifts).to(reference) if bias else None)


class _Regression:
    """The problem of one group: moments of seen and made-up samples together."""

    def __init__(
        self, dense: Tensor, moments: OutputMoments, group: int, bias: bool, output_moment: Tensor | None, prior: float
    ) -> None:
        count = moments.samples
        mean, target_mean = moments.input_sum[group] / count, moments.target_sum[group] / count
        self.inputs, self.cross = moments.inputs[group] / count, moments.cross[group] / count  # [D, D], [D, out]
        targets = moments.targets[group] / count
        if bias:
            self.inputs -= torch.outer(mean, mean)
            self.cross -= torch.outer(mean, target_mean)
            targets -= torch.outer(target_mean, target_mean)
        self._mean, self._target_mean = mean, target_mean
        rows = dense.flatten(1).to(self.inputs)  # [out, D]
        channels = dense.shape[1]
        self.varies = bool(self.inputs.diagonal().sum() > 0)
        if not self.varies:
            return
        self._channel_moment, made_up = _kronecker(self.inputs, channels)
        made_up *= prior * len(made_up) / count
        self.inputs += made_up
        pull = made_up @ rows.mT
        self.cross += pull
        targets += rows @ pull
        cost = torch.eye(len(targets)).to(targets) if output_moment is None else output_moment[group].to(targets)
        self._cost = cost / cost.diagonal().mean().clamp_min(_SMALL)
        self._energy = max(float((self._cost * targets).sum()), _SMALL)

    def solve(self, factors: list[Tensor], max_iter: int) -> tuple[list[Tensor], Tensor]:
        """Descend from factors ``[size, rank]``, the output one first.

        Returns:
            All factors, and the bias.
        """
        if not self.varies:
            return factors, self._target_mean - factors[0] @ (_rows(factors[1:]) @ self._mean)
        root, back = whitening(self._channel_moment.double())
        back = back.to(self.inputs)
        points = [root.to(self.inputs) @ factors[1], *factors[2:]]
        points = [(point / point.norm(dim=0).clamp_min(_SMALL)).requires_grad_() for point in points]

        def closure() -> Tensor:
            for point in points:
                point.grad = None
            with torch.enable_grad():
                rows = _rows([back @ points[0], *points[1:]])
            seen = rows.detach() @ self.inputs
            out, loss = self._regress(rows.detach(), seen)
            weighted = self._cost @ out  # [out, rank]
            slope = 2 / self._energy * (weighted.mT @ out @ seen - weighted.mT @ self.cross.mT)
            rows.backward(slope)
            return loss

        if max_iter:
            torch.optim.LBFGS(
                points, max_iter=max_iter, max_eval=max_iter + max_iter // 4, tolerance_grad=0,
                tolerance_change=1e-7, history_size=_HISTORY, line_search_fn="strong_wolfe",
            ).step(closure)  # fmt: skip
        right = [back @ points[0].detach(), *(point.detach() for point in points[1:])]
        rows = _rows(right)
        out, _ = self._regress(rows, rows @ self.inputs)
        return [out, *right], self._target_mean - out @ (rows @ self._mean)

    def _regress(self, rows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Solve the output factor for ``rows`` ``[rank, D]``, given their product with the moment.

        Returns:
            The factor ``[out, rank]`` and the share of the weighted energy that is lost.
        """
        cross = rows @ self.cross  # [rank, out]
        out = self._solver((cross.mT).double(), (seen @ rows.mT).double()).to(rows)
        return out, 1 - (self._cost * (out @ cross)).sum() / self._energy

    _solver = staticmethod(ridge_solver(_RIDGE))


def _rows(factors: Sequence[Tensor]) -> Tensor:
    """Multiply the input and tap factors ``[size, rank]`` out: ``[rank, in * taps]``."""
    rows = factors[0].mT
    for taps in factors[1:]:
        rows = (rows.unsqueeze(2) * taps.mT.unsqueeze(1)).flatten(1)
    return rows


def _kronecker(moment: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return the mean moment of the channels over the taps, and its product with that of the taps."""
    size = len(moment)
    split = moment.view(channels, size // channels, channels, -1)
    by_channel = split.diagonal(dim1=1, dim2=3).mean(-1)
    by_tap = split.diagonal(dim1=0, dim2=2).mean(-1)
    level = by_tap.diagonal().mean()
    product = torch.einsum("ij,st->isjt", by_channel, by_tap / level).reshape(size, size)
    product.diagonal().add_(_TINY * level)
    return by_channel, product
