r"""Agreement of two series: the one home of ``ccc``, ``pcc``, ``rmse`` and ``sagr``.

With means, variances and covariance over the samples (population moments, ddof 0)::

    rmse = sqrt(mean((x - y)^2))
    pcc  = cov(x, y) / (std(x) std(y))
    ccc  = 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2)
    sagr = mean(sign(x) == sign(y)),  sign(0) = 0 being a sign of its own

As EmoNet (Toisoul et al. 2021); torchmetrics divides the variances by n - 1 and reads slightly higher
(0.97773 instead of 0.97679 on the example of `ccc`).

Shapes, for all four: a series ``[N]`` gives a scalar; anything longer is reduced over every dimension but
the last, so ``[N, T, 2]`` gives ``[2]`` = (valence, arousal). ``valid`` is a bool mask of the shape of
``pred`` with or without the last dimension; what stands on invalid places, NaN included, has no influence,
on gradients neither. NaN on a valid place gives NaN. In the place of a mask it may be weights, floating, finite and
of 0 or more: means, variances and covariance are then weighted, 0 is invalid, and only proportions matter.

Sums run in float64 (float32 on devices without it) and the result is float32, or float64 for float64
inputs. All but ``sagr`` are differentiable with finite gradients everywhere: a variance below ``EPS``
counts as ``EPS``, so a constant series has ``pcc`` and ``ccc`` 0, whatever the other one is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-12
"""Floor of a variance, in squared annotation units: the rounding of float32 values near 1."""


class Moments(NamedTuple):
    """Population moments of two series, each a scalar or ``[..., D]``; whoever has sums of many parts can make them.

    Attributes:
        samples: How many values count.
        pred_mean: Mean of the predictions.
        target_mean: Mean of the ground truth.
        pred_var: Variance of the predictions.
        target_var: Variance of the ground truth.
        covariance: Covariance of both.
    """

    samples: Tensor
    pred_mean: Tensor
    target_mean: Tensor
    pred_var: Tensor
    target_var: Tensor
    covariance: Tensor


def ccc(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the concordance correlation coefficient (Lin 1989), 1 only on equality.

    Args:
        pred: Predictions, ``[N]`` or ``[..., D]``, floating.
        target: Ground truth of the same shape.
        valid: Bool mask or weights, ``[N]``, ``[...]`` or ``[..., D]``; all valid by default.

    Returns:
        Values in [-1, 1], scalar or ``[D]``; NaN where fewer than two samples are valid.

    Example:
        >>> ccc(torch.tensor([2.5, 0.0, 2.0, 8.0]), torch.tensor([3.0, -0.5, 2.0, 7.0]))
        tensor(0.9768)
    """
    return _finish(ccc_of_moments(_moments("ccc", pred, target, valid)), pred)


def ccc_of_moments(m: Moments) -> Tensor:
    """Return `ccc` of series of which only the moments are known, in their type."""
    scale = m.pred_var + m.target_var + (m.pred_mean - m.target_mean) ** 2
    return _where_enough(2 * m.covariance / scale.clamp_min(EPS), m.samples >= 2)


def pcc(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return Pearson's correlation coefficient.

    Args:
        pred: Predictions, ``[N]`` or ``[..., D]``, floating.
        target: Ground truth of the same shape.
        valid: Bool mask or weights, ``[N]``, ``[...]`` or ``[..., D]``; all valid by default.

    Returns:
        Values in [-1, 1], scalar or ``[D]``; NaN where fewer than two samples are valid.

    Example:
        >>> pcc(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.7, 0.9]))
        tensor(1.)
    """
    return _finish(pcc_of_moments(_moments("pcc", pred, target, valid)), pred)


def pcc_of_moments(m: Moments) -> Tensor:
    """Return `pcc` of series of which only the moments are known, in their type."""
    scale = m.pred_var.clamp_min(EPS).sqrt() * m.target_var.clamp_min(EPS).sqrt()
    return _where_enough(m.covariance / scale, m.samples >= 2)


def rmse(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the root mean squared error, in annotation units; its gradient on equality is 0.

    Args:
        pred: Predictions, ``[N]`` or ``[..., D]``, floating.
        target: Ground truth of the same shape.
        valid: Bool mask or weights, ``[N]``, ``[...]`` or ``[..., D]``; all valid by default.

    Returns:
        Values of 0 or more, scalar or ``[D]``; NaN where no sample is valid.

    Example:
        >>> rmse(torch.tensor([[0.3, 0.0], [0.3, 0.0]]), torch.tensor([[0.0, 0.4], [0.0, -0.4]]))
        tensor([0.3000, 0.4000])
    """
    x, y, weight = _prepare("rmse", pred, target, valid)
    mean_square = (weight * (x - y) ** 2).sum(0) / _mass(weight)
    # sqrt has an infinite slope at 0, and 0 * inf is NaN: branch before the root, not after it.
    equal = mean_square == 0
    root = torch.where(equal, torch.ones_like(mean_square), mean_square).sqrt()
    return _finish(_where_enough(torch.where(equal, torch.zeros_like(root), root), _count(weight) >= 1), pred)


def sagr(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the sign agreement: the share of samples on the same side of zero. Not differentiable.

    Args:
        pred: Predictions, ``[N]`` or ``[..., D]``, floating.
        target: Ground truth of the same shape.
        valid: Bool mask or weights, ``[N]``, ``[...]`` or ``[..., D]``; all valid by default.

    Returns:
        Values in [0, 1], scalar or ``[D]``; NaN where no sample is valid.

    Example:
        >>> sagr(torch.tensor([0.2, -0.1, 0.0, 0.3]), torch.tensor([0.9, 0.1, 0.0, 0.0]))
        tensor(0.5000)
    """
    x, y, weight = _prepare("sagr", pred.detach(), target, valid)
    same = (weight * (x.sign() == y.sign())).sum(0) / _mass(weight)
    # A comparison hides NaN, which is no sign at all.
    same = torch.where((x.isnan() | y.isnan()).any(0), torch.full_like(same, torch.nan), same)
    return _finish(_where_enough(same, _count(weight) >= 1), pred)


def _moments(name: str, pred: Tensor, target: Tensor, valid: Tensor | None) -> Moments:
    """Return weighted population moments, in two passes: variances of near-constant series keep their digits."""
    x, y, weight = _prepare(name, pred, target, valid)
    mass = _mass(weight)
    pred_mean, target_mean = (weight * x).sum(0) / mass, (weight * y).sum(0) / mass
    dx, dy = x - pred_mean, y - target_mean
    pred_var, target_var = (weight * dx * dx).sum(0) / mass, (weight * dy * dy).sum(0) / mass
    return Moments(_count(weight), pred_mean, target_mean, pred_var, target_var, (weight * dx * dy).sum(0) / mass)


def _mass(weight: Tensor) -> Tensor:
    """Return the sum of the weights, 1 where there is none to divide by."""
    total = weight.sum(0)
    return torch.where(total > 0, total, torch.ones_like(total))


def _count(weight: Tensor) -> Tensor:
    """Return how many samples count."""
    return (weight > 0).sum(0)


def _prepare(name: str, pred: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Check the arguments and return ``x``, ``y`` and weights, each ``[samples]`` or ``[samples, D]``."""
    for what, value in (("pred", pred), ("target", target)):
        if not value.is_floating_point():
            raise TypeError(f"{name}: {what} must be floating, got {value.dtype}.")
    if pred.ndim == 0 or pred.shape != target.shape:
        raise ValueError(
            f"{name}: pred and target must have one shape, [N] or [..., D], "
            f"got {tuple(pred.shape)} and {tuple(target.shape)}."
        )
    dtype = torch.float32 if pred.device.type == "mps" else torch.float64
    weight = torch.ones_like(pred, dtype=torch.bool) if valid is None else _expand_mask(name, pred, valid)
    mask = weight != 0
    x = torch.where(mask, pred, torch.zeros_like(pred)).to(dtype)
    y = torch.where(mask, target, torch.zeros_like(target)).to(dtype)
    flat = (-1,) if pred.ndim == 1 else (-1, pred.shape[-1])
    return x.reshape(flat), y.reshape(flat), weight.to(dtype).reshape(flat)


def _expand_mask(name: str, pred: Tensor, valid: Tensor) -> Tensor:
    if valid.dtype != torch.bool and not valid.is_floating_point():
        raise TypeError(f"{name}: valid must be bool, or weights of a floating type, got {valid.dtype}.")
    if valid.shape == pred.shape:
        return valid
    if pred.ndim > 1 and valid.shape == pred.shape[:-1]:
        return valid.unsqueeze(-1).expand_as(pred)
    raise ValueError(
        f"{name}: valid must have the shape of pred, with or without its last dimension, "
        f"got {tuple(valid.shape)} for {tuple(pred.shape)}."
    )


def _where_enough(value: Tensor, enough: Tensor) -> Tensor:
    """Put NaN where the samples do not define the value."""
    return torch.where(enough, value, torch.full_like(value, torch.nan))


def _finish(value: Tensor, pred: Tensor) -> Tensor:
    """Leave float64."""
    return value.to(torch.promote_types(pred.dtype, torch.float32))
