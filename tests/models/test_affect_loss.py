"""`AffectLoss` is the loss of EmoNet: its terms, its weights, its limits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from hocp_mm.functional.agreement import ccc, pcc, rmse
from hocp_mm.models.losses import AffectLoss


def batch(seed: int = 0, clips: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(clips, 5, 2, generator=generator)
    pred = 0.5 * target + torch.randn(clips, 5, 2, generator=generator)
    return pred.requires_grad_(), target, torch.rand(clips, 5, generator=generator) > 0.3


def reference_terms(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    x, y = pred[valid], target[valid]
    return torch.stack([rmse(x, y).sum(), 1 - pcc(x, y).mean(), 1 - ccc(x, y).mean()])


def test_eval_mode_weighs_the_terms_equally() -> None:
    loss = AffectLoss().eval()
    result = loss(*batch())
    torch.testing.assert_close(result["loss_affect"], reference_terms(*batch()).mean())
    assert torch.equal(result["loss_affect"], loss(*batch())["loss_affect"])


def test_training_uses_convex_weights_that_change_every_step() -> None:
    loss = AffectLoss().train()
    terms = reference_terms(*batch()).detach()
    torch.manual_seed(3)
    values = [loss(*batch())["loss_affect"].item() for _ in range(5)]
    torch.manual_seed(3)
    expected = [(loss.draw_weights() * terms).sum().item() for _ in range(5)]
    assert values == pytest.approx(expected, rel=1e-6)
    assert len(set(values)) == 5


def test_weights_are_uniform_draws_normalised_to_one() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([AffectLoss().draw_weights() for _ in range(3000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(3000))
    assert drawn.min() >= 0
    assert drawn.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    # a / (a + b + c) of uniform draws: P(first > 1/2) = P(a > b + c) = 1/6.
    assert (drawn[:, 0] > 0.5).float().mean().item() == pytest.approx(1 / 6, abs=0.03)


def test_fixed_weights_on_request_and_single_terms() -> None:
    assert AffectLoss(random_weights=False).train().draw_weights().tolist() == pytest.approx([1 / 3] * 3)
    terms = reference_terms(*batch())
    for index, name in enumerate(("rmse", "pcc", "ccc")):
        value = AffectLoss(terms=(name,), loss_weight=2.0).train()(*batch())["loss_affect"]
        torch.testing.assert_close(value, 2 * terms[index])


def test_only_the_loss_is_summed_by_mmengine() -> None:
    result = AffectLoss().eval()(*batch())
    assert [name for name in result if "loss" in name] == ["loss_affect"]
    assert {"rmse", "pcc", "ccc"} < set(result)
    assert not any(result[name].requires_grad for name in ("rmse", "pcc", "ccc"))


def test_invalid_frames_have_no_influence() -> None:
    pred, target, valid = batch()
    changed = target.clone()
    changed[~valid] = torch.nan
    loss = AffectLoss().eval()
    loss(pred, target, valid)["loss_affect"].backward()
    gradient, pred.grad = pred.grad, None
    loss(pred, changed, valid)["loss_affect"].backward()
    assert gradient is not None
    assert pred.grad is not None
    assert torch.equal(gradient, pred.grad)
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).any()


@pytest.mark.parametrize("frames", [0, 1])
def test_too_few_valid_frames_keep_the_graph_and_stay_finite(frames: int) -> None:
    pred, target, valid = batch()
    valid = torch.zeros_like(valid)
    valid[0, :frames] = True
    result = AffectLoss().eval()(pred, target, valid)
    result["loss_affect"].backward()
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()
    expected = rmse(pred[valid], target[valid]).sum().item() / 3 if frames else 0
    assert result["loss_affect"].item() == pytest.approx(expected)


def test_constant_predictions_have_finite_gradients() -> None:
    _, target, valid = batch()
    pred = torch.zeros_like(target, requires_grad=True)
    AffectLoss()(pred, target, valid)["loss_affect"].backward()
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()


def test_nan_predictions_are_not_hidden() -> None:
    pred, target, valid = batch()
    with torch.no_grad():
        pred[valid] = torch.nan
    assert AffectLoss()(pred, target, valid)["loss_affect"].isnan()


@pytest.mark.parametrize("terms", [(), ("mse",), ("ccc", "ccc")])
def test_unknown_or_repeated_terms_are_refused(terms: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="terms must be distinct names"):
        AffectLoss(terms=terms)


def _worker(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # ranks disagree, as with --diff-rank-seed
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.eye_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    model = torch.nn.parallel.DistributedDataParallel(layer)
    pred, target, valid = batch(clips=4)
    half = slice(2 * rank, 2 * rank + 2)
    torch.manual_seed(rank)
    value = AffectLoss()(model(pred.detach()[half]), target[half], valid[half])["loss_affect"]
    value.backward()
    torch.save({"loss": value.detach(), "grad": layer.weight.grad}, f"{out}/{rank}.pth")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    spawn(_worker, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.eye_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    pred, target, valid = batch(clips=4)
    torch.manual_seed(0)
    value = AffectLoss()(layer(pred.detach()), target, valid)["loss_affect"]
    value.backward()
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(result["loss"], value.detach())
        torch.testing.assert_close(result["grad"], layer.weight.grad)


def test_weight_one_is_no_weight_and_weight_zero_is_invalid() -> None:
    pred, target, valid = batch()
    loss = AffectLoss().eval()
    some = torch.rand(valid.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    pairs = [
        ((valid, torch.ones_like(target[..., 0])), (valid,)),
        ((valid, some.float()), (valid & some,)),
        ((valid, some.float() / 3), (valid & some,)),
    ]
    for weighted, plain in pairs:
        gradients = []
        for arguments in (weighted, plain):
            loss(pred, target, *arguments)["loss_affect"].backward()
            assert pred.grad is not None
            gradients.append(pred.grad.clone())
            pred.grad = None
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)
        assert (gradients[1] != 0).any()


def test_a_frame_of_twice_the_weight_counts_as_two() -> None:
    pred, target, valid = batch()
    twice = torch.ones_like(target[..., 0])
    twice[1:3] = 2
    again = [torch.cat([part, part[1:3]]) for part in (pred, target, valid)]
    loss = AffectLoss().eval()
    torch.testing.assert_close(loss(pred, target, valid, twice)["loss_affect"], loss(*again)["loss_affect"])
    assert loss(pred, target, valid, twice)["loss_affect"] != loss(pred, target, valid)["loss_affect"]
