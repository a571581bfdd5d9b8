"""Laws of ``ccc``, ``pcc``, ``rmse``, ``sagr``; the oracle is NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hocp_mm.functional.agreement import ccc, pcc, rmse, sagr

METRICS = {"ccc": ccc, "pcc": pcc, "rmse": rmse, "sagr": sagr}
DIFFERENTIABLE = [ccc, pcc, rmse]


def reference(name: str, x: np.ndarray, y: np.ndarray) -> float:
    if name == "rmse":
        return float(np.sqrt(np.mean((x - y) ** 2)))
    if name == "sagr":
        return float(np.mean(np.sign(x) == np.sign(y)))
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    if name == "pcc":
        return float(covariance / (x.std() * y.std()))
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def series(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return 0.6 * target + 0.3 + 0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize("name", METRICS)
def test_last_dimension_is_kept_and_all_others_are_samples(name: str) -> None:
    pred, target = series(0, 4, 5, 2)
    value = METRICS[name](pred, target)
    expected = [reference(name, pred[..., d].flatten().numpy(), target[..., d].flatten().numpy()) for d in range(2)]
    assert value.tolist() == pytest.approx(expected, abs=1e-12)
    assert METRICS[name](pred[..., 0].flatten(), target[..., 0].flatten()).item() == pytest.approx(expected[0])


def test_ccc_of_four_numbers_uses_population_moments() -> None:
    # Derived by hand from the two series: 0.97679 with ddof 0, 0.97773 with ddof 1.
    value = ccc(torch.tensor([2.5, 0.0, 2.0, 8.0]), torch.tensor([3.0, -0.5, 2.0, 7.0]))
    assert value.item() == pytest.approx(0.97679, abs=5e-6)


@pytest.mark.parametrize("name", METRICS)
def test_mask_equals_selection_and_hides_nan_from_values_and_gradients(name: str) -> None:
    pred, target = series(1, 40, 2)
    valid = torch.rand(40, generator=torch.Generator().manual_seed(2)) > 0.4
    expected = METRICS[name](pred[valid], target[valid])
    pred[~valid], target[~valid] = torch.nan, torch.nan
    pred.requires_grad_(name != "sagr")
    value = METRICS[name](pred, target, valid)
    assert torch.equal(value, METRICS[name](pred, target, valid[:, None].expand(-1, 2)))
    torch.testing.assert_close(value, expected)
    if name != "sagr":
        value.sum().backward()
        assert pred.grad is not None
        assert torch.isfinite(pred.grad).all()
        assert (pred.grad[~valid] == 0).all()


@pytest.mark.parametrize("name", METRICS)
def test_nan_on_a_valid_place_is_not_hidden(name: str) -> None:
    pred, target = series(3, 10, 2)
    pred[4, 1] = torch.nan
    value = METRICS[name](pred, target)
    assert value.isnan().tolist() == [False, True]


@pytest.mark.parametrize("function", DIFFERENTIABLE)
def test_gradients_agree_with_finite_differences(function: Callable[..., Tensor]) -> None:
    pred, target = series(4, 6, 2)
    valid = torch.tensor([True, True, False, True, True, True])
    assert torch.autograd.gradcheck(lambda x: function(x, target, valid), pred.requires_grad_())


CONSTANT_CASES = {
    "constant predictions": (torch.full((6, 2), 0.3), series(5, 6, 2)[1].float()),
    "constant target": (series(5, 6, 2)[0].float(), torch.full((6, 2), 0.3)),
    "both constant and equal": (torch.full((6, 2), 0.3), torch.full((6, 2), 0.3)),
    "both constant and different": (torch.full((6, 2), 0.3), torch.full((6, 2), -0.2)),
}


@pytest.mark.parametrize("case", CONSTANT_CASES)
@pytest.mark.parametrize("function", DIFFERENTIABLE)
def test_constant_series_have_finite_values_and_gradients(function: Callable[..., Tensor], case: str) -> None:
    pred, target = CONSTANT_CASES[case]
    pred = pred.clone().requires_grad_()
    value = function(pred, target)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(pred.grad).all()  # pyright: ignore[reportArgumentType]
    if function is not rmse:
        assert value.abs().max() < 1e-6


@pytest.mark.parametrize(("name", "enough"), [("ccc", 2), ("pcc", 2), ("rmse", 1), ("sagr", 1)])
def test_too_few_valid_samples_give_nan_with_finite_gradients(name: str, enough: int) -> None:
    pred, target = series(6, 5, 2)
    pred.requires_grad_(name != "sagr")
    for count in range(3):
        value = METRICS[name](pred, target, torch.arange(5) < count)
        assert value.isnan().all().item() == (count < enough)
        if name != "sagr":
            value.nan_to_num().sum().backward()
    assert pred.grad is None or torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", METRICS)
def test_half_inputs_are_summed_in_double(name: str, dtype: torch.dtype) -> None:
    pred, target = (value.to(dtype) for value in series(7, 5000))
    value = METRICS[name](pred, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference(name, pred.double().numpy(), target.double().numpy()), abs=1e-6)


FLOATS = st.floats(-1, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=30))
def test_ccc_is_symmetric_bounded_by_pcc_and_one_on_equality(pairs: list[tuple[float, float]]) -> None:
    pred, target = torch.tensor(pairs, dtype=torch.float64).T
    value = ccc(pred, target)
    assert value.item() == pytest.approx(ccc(target, pred).item(), abs=1e-12)
    if pred.var(correction=0) > 1e-9 and target.var(correction=0) > 1e-9:
        assert abs(value) <= abs(pcc(pred, target)) + 1e-9
        assert ccc(pred, pred).item() == pytest.approx(1, abs=1e-9)
        assert pcc(-pred, pred).item() == pytest.approx(-1, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=3, max_size=30), st.floats(0.1, 10), st.floats(-2, 2))
def test_pcc_ignores_scale_and_shift(pairs: list[tuple[float, float]], scale: float, shift: float) -> None:
    pred, target = torch.tensor(pairs, dtype=torch.float64).T
    if pred.var(correction=0) > 1e-6 and target.var(correction=0) > 1e-6:
        assert pcc(scale * pred + shift, target).item() == pytest.approx(pcc(pred, target).item(), abs=1e-7)


REFUSALS = {
    "integer predictions": ((torch.zeros(4, dtype=torch.int64), torch.zeros(4)), TypeError, "pred must be floating"),
    "different shapes": ((torch.zeros(4, 2), torch.zeros(4)), ValueError, r"one shape.*\(4, 2\) and \(4,\)"),
    "a scalar": ((torch.tensor(0.0), torch.tensor(0.0)), ValueError, "one shape"),
    "an integer mask": (
        (torch.zeros(4), torch.zeros(4), torch.ones(4).long()),
        TypeError,
        "valid must be bool, or weig",
    ),
    "a mask of another length": (
        (torch.zeros(4, 2), torch.zeros(4, 2), torch.ones(3, dtype=torch.bool)),
        ValueError,
        r"shape of pred.*\(3,\) for \(4, 2\)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("function", METRICS.values())
def test_wrong_arguments_are_refused_by_name(function: Callable[..., Tensor], case: str) -> None:
    arguments, kind, text = REFUSALS[case]
    with pytest.raises(kind, match=f"{function.__name__}: .*{text}"):
        function(*arguments)


@pytest.mark.parametrize("measure", [ccc, pcc, rmse, sagr])
def test_a_weight_counts_a_sample_as_often_as_it_says(measure: Callable[..., torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 12, 2, generator=generator, dtype=torch.float64)
    times = torch.tensor([0, 1, 2, 3] * 3)
    repeated = measure(pred.repeat_interleave(times, 0), target.repeat_interleave(times, 0))
    torch.testing.assert_close(measure(pred, target, times.double()), repeated)
    torch.testing.assert_close(measure(pred, target, 1e-3 * times.double()), repeated)  # proportions alone matter
    assert torch.equal(measure(pred, target, (times > 0).double()), measure(pred, target, times > 0))
    pred[times == 0] = torch.nan
    torch.testing.assert_close(measure(pred, target, times.double()), repeated)
    assert measure(pred, target, torch.zeros(12)).isnan().all()
