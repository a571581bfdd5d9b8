"""`ExpressionLoss`: cross-entropy of expression classes over the labelled frames of the whole mini-batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor, nn

from hocp_mm.registry import MODELS


@MODELS.register_module()
class ExpressionLoss(nn.Module):
    """Average the cross-entropy over all frames with a label; -1 is none.

    With ``class_weights`` w the average is weighted, ``sum w[y] CE / sum w[y]``, as in PyTorch. N processes follow the
    same loss as one process with the N-fold batch, however the labelled frames fall on them.

    Args:
        num_classes: Classes K.
        class_weights: One positive weight per class; None weighs all alike.
        loss_weight: Factor on the result.

    Raises:
        ValueError: If a number is out of its range, or there is not one weight per class.
    """

    weight: Tensor | None

    def __init__(
        self, num_classes: int, class_weights: Sequence[float] | None = None, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"ExpressionLoss: num_classes must be 2 or more, got {num_classes}.")
        if loss_weight < 0:
            raise ValueError(f"ExpressionLoss: loss_weight must be 0 or more, got {loss_weight}.")
        if class_weights is not None and (len(class_weights) != num_classes or min(class_weights) <= 0):
            raise ValueError(
                f"ExpressionLoss: class_weights must be {num_classes} positive numbers, got {tuple(class_weights)}."
            )
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        # A setting, not a weight: a checkpoint then fits whatever the config states.
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the loss of one batch.

        Args:
            logits: ``[N, T, K]``, computed in float32 whatever type they have.
            target: Classes, int64 ``[N, T]``, -1 = none.

        Returns:
            ``loss_expression``, a scalar with gradient (0 without a label), and the detached share of right answers
            ``expression_accuracy`` of this process for the log, NaN without a label.
        """
        scores, classes = logits.reshape(-1, self.num_classes).float(), target.reshape(-1)
        labelled = classes >= 0
        total = F.cross_entropy(scores, classes, self.weight, ignore_index=-1, reduction="sum")
        weights = labelled.float() if self.weight is None else self.weight[classes.clamp(min=0)] * labelled
        mass = weights.sum()
        # DistributedDataParallel averages gradients: with the mean mass per process that is the loss of all together.
        dist.all_reduce(mass, "mean")
        right = ((scores.detach().argmax(dim=1) == classes) & labelled).sum()
        return {
            "loss_expression": self.loss_weight * total / mass.clamp(min=torch.finfo(mass.dtype).tiny),
            "expression_accuracy": right / labelled.sum(),
        }
