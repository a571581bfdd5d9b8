"""`ExpressionLoss` is the cross-entropy of the whole batch, wherever its labels fall."""

import pytest
import torch
import torch.nn.functional as F
from mmengine import dist

from hocp_mm.models.losses import ExpressionLoss
from hocp_mm.registry import MODELS


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator, requires_grad=True)
    target = torch.tensor([[0, -1, 4], [-1, -1, -1], [2, 2, 3], [1, -1, 0]])
    return logits, target


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0, 0.25]])
def test_it_equals_torch_on_the_labelled_frames(weights: list[float] | None) -> None:
    logits, target = batch()
    values = ExpressionLoss(5, weights, loss_weight=2)(logits, target)
    weight = None if weights is None else torch.tensor(weights)
    expected = 2 * F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight, ignore_index=-1)
    torch.testing.assert_close(values["loss_expression"], expected)
    right = (logits.argmax(-1) == target)[target >= 0].float().mean()
    torch.testing.assert_close(values["expression_accuracy"], right)


def test_processes_with_unequal_labels_follow_the_loss_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = batch()
    whole = ExpressionLoss(5)
    (expected,) = torch.autograd.grad(whole(logits, target)["loss_expression"], logits)
    counts = [float((part >= 0).sum()) for part in target.split(2)]
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: tensor.fill_(sum(counts) / 2))
    total = sum(
        whole(part, labels)["loss_expression"] for part, labels in zip(logits.split(2), target.split(2), strict=True)
    )
    (mean,) = torch.autograd.grad(total / 2, logits)  # as DistributedDataParallel averages
    torch.testing.assert_close(mean, expected)


def test_a_batch_without_labels_adds_nothing_and_keeps_the_graph() -> None:
    logits, target = batch()
    values = ExpressionLoss(5, [1.0, 2.0, 3.0, 4.0, 5.0])(logits, torch.full_like(target, -1))
    values["loss_expression"].backward()
    assert values["loss_expression"] == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    assert values["expression_accuracy"].isnan()


def test_weights_are_a_setting_not_a_part_of_checkpoints() -> None:
    built = MODELS.build({"type": "hocp_mm.ExpressionLoss", "num_classes": 2, "class_weights": [1.0, 3.0]})
    assert built.state_dict() == {}


REFUSALS = {
    "one class": ((1,), "num_classes must be 2 or more, got 1"),
    "too few weights": ((3, [1.0, 2.0]), r"class_weights must be 3 positive numbers, got \(1.0, 2.0\)"),
    "weight zero": ((2, [1.0, 0.0]), r"class_weights must be 2 positive numbers, got \(1.0, 0.0\)"),
    "negative factor": ((2, None, -1.0), "loss_weight must be 0 or more, got -1.0"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_settings_are_refused(case: str) -> None:
    arguments, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        ExpressionLoss(*arguments)
