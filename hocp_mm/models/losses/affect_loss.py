"""`AffectLoss`: RMSE, PCC and CCC under random convex weights.

With a, b, c ~ U[0, 1] redrawn every training step (EmoNet, Toisoul et al. 2021)::

    L = (a L_rmse + b L_pcc + c L_ccc) / (a + b + c)
    L_rmse = rmse_v + rmse_a,  L_pcc = 1 - (pcc_v + pcc_a) / 2,  L_ccc = 1 - (ccc_v + ccc_a) / 2

All moments run over all valid frames of the whole mini-batch: of every process, when there are several.
"""

from collections.abc import Sequence

import torch
from mmengine import dist
from torch import Tensor, nn

from hocp_mm.functional.agreement import ccc, pcc, rmse
from hocp_mm.registry import MODELS

TERMS = ("rmse", "pcc", "ccc")


@MODELS.register_module()
class AffectLoss(nn.Module):
    """Weigh RMSE, PCC and CCC terms, at random in training and equally in eval mode.

    Args:
        terms: The terms to use, out of ``rmse``, ``pcc``, ``ccc``.
        random_weights: Whether training draws the weights; equal weights otherwise.
        loss_weight: Factor on the result.
        gather: Whether the moments run over the batches of all processes. Then N processes follow the same
            loss as one process with the N-fold batch; all must hold batches of one shape.

    Raises:
        ValueError: If a term is unknown or there is none.

    Note:
        Weights come from torch's global CPU generator, so the seed of the run decides them. Every process draws and
        the values of rank 0 are used, so that all ranks follow one loss even with seeds that differ.
    """

    def __init__(
        self,
        terms: Sequence[str] = TERMS,
        random_weights: bool = True,
        loss_weight: float = 1.0,
        gather: bool = True,
    ) -> None:
        super().__init__()
        unknown = sorted(set(terms) - set(TERMS))
        if unknown or not terms or len(set(terms)) != len(terms):
            raise ValueError(f"AffectLoss: terms must be distinct names out of {TERMS}, got {tuple(terms)}.")
        self.terms = tuple(terms)
        self.random_weights = random_weights
        self.loss_weight = loss_weight
        self.gather = gather

    def draw_weights(self) -> Tensor:
        """Return the weights of one step, float32 ``[len(terms)]`` on the CPU, non-negative, with sum 1."""
        if not (self.training and self.random_weights):
            return torch.full((len(self.terms),), 1 / len(self.terms))
        weights = torch.rand(len(self.terms))
        dist.broadcast(weights)
        # All of them 0 would be 0 / 0; a float32 uniform draws an exact 0 about once in 2^24.
        return (weights + 1e-12) / (weights + 1e-12).sum()

    def forward(self, pred: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the loss of one batch.

        Args:
            pred: Predictions ``[N, T, 2]``.
            target: Labels ``[N, T, 2]``.
            valid: Mask of the frames that count, bool ``[N, T]``.
            weight: How much each of them counts, 0 or more, ``[N, T]``; None for all alike. All moments are weighted;
                0 is as good as invalid, and only proportions matter.

        Returns:
            ``loss_affect``, a scalar with gradient, and the detached means over valence and arousal ``rmse``,
            ``pcc``, ``ccc`` for the log (no ``loss`` in these names: mmengine sums all keys that contain it). A
            term that the valid frames do not define (fewer than two, for ``rmse`` none) adds 0 and keeps the
            graph; its log value is NaN.
        """
        counts = valid if weight is None else torch.where(valid, weight, torch.zeros_like(weight))
        if self.gather and dist.get_world_size() > 1:
            # Always as weights: some processes may hold a batch that has them, and others one that has not.
            pred, target, counts = _gather(pred, target, counts.float())
        values = {name: function(pred, target, counts) for name, function in _FUNCTIONS.items()}
        losses = {"rmse": values["rmse"].sum(), "pcc": 1 - values["pcc"].mean(), "ccc": 1 - values["ccc"].mean()}
        count = (counts > 0).sum()
        total = pred.new_zeros((), dtype=losses["ccc"].dtype)
        # 0 * pred, not 0: every rank then takes part in the backward pass, and a NaN prediction stays visible.
        nothing = (pred * 0).sum()
        for name, weight in zip(self.terms, self.draw_weights().to(pred.device), strict=True):
            defined = count >= (1 if name == "rmse" else 2)
            total = total + weight * torch.where(defined, losses[name], nothing)
        log = {name: value.detach().mean() for name, value in values.items()}
        return {"loss_affect": self.loss_weight * total, **log}


_FUNCTIONS = {"rmse": rmse, "pcc": pcc, "ccc": ccc}


def _gather(pred: Tensor, target: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the batches of all processes, concatenated, with gradients.

    The backward of ``all_gather`` sums over the ranks, and DistributedDataParallel divides by their number: the
    gradient is that of the loss on the whole batch.
    """
    # Here and not above: torch builds without distributed support cannot import it.
    from torch.distributed.nn.functional import all_gather

    return (
        torch.cat(list(all_gather(pred.contiguous()))),
        torch.cat(dist.all_gather(target)),
        torch.cat(dist.all_gather(counts)),
    )
