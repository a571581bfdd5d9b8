import pytest
import torch
from scipy.optimize import minimize_scalar

from hocp_mm.functional import CPKernel, dense_kernel
from hocp_mm.functional.cp import component_norms
from hocp_mm.functional.sparsity import normalize, prune, soft_threshold, surviving
from tests.laws import assert_close, random_kernel


@pytest.mark.parametrize("x", [-3.0, -0.4, 0.0, 0.7, 2.5])
def test_soft_threshold_is_the_proximal_operator_of_the_absolute_value(x):
    found = minimize_scalar(lambda z: 0.5 * (z - x) ** 2 + 0.7 * abs(z), bounds=(-5, 5), method="bounded")
    assert soft_threshold(torch.tensor(x), 0.7).item() == pytest.approx(found.x, abs=1e-4)


def test_soft_threshold_gives_exact_zeros_and_keeps_dtype():
    out = soft_threshold(torch.tensor([0.5, -0.5, 1.0]).bfloat16(), 0.5)
    assert out.tolist() == [0, 0, 0.5]
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("modes", [None, ("out", "h", "w"), ()], ids=str)
def test_normalize_keeps_the_kernel_and_gives_unit_columns(modes):
    kernel = random_kernel(rank=8, groups=2)
    normalized = normalize(kernel, modes)
    assert_close(dense_kernel(normalized), dense_kernel(kernel), 1e-13, "normalized kernel")
    for mode in modes if modes is not None else kernel.factors:
        norms = normalized.factors[mode].norm(dim=0)
        assert_close(norms, torch.ones_like(norms), 1e-13, f"columns of {mode}")


def test_after_normalize_lambda_is_the_size_of_the_components():
    kernel = random_kernel()
    assert_close(normalize(kernel).weights.abs(), component_norms(kernel), 1e-13, "lambda")


def test_normalize_of_a_dead_column_gives_weight_zero():
    kernel = random_kernel()
    kernel.factors["h"][:, 2] = 0
    normalized = normalize(kernel)
    assert normalized.weights[2] == 0
    assert all(torch.isfinite(factor).all() for factor in normalized.factors.values())


def test_normalize_survives_half_precision():
    kernel = random_kernel(dtype=torch.float16)
    small = CPKernel(kernel.weights, {**kernel.factors, "in": kernel.factors["in"] * 1e-4})
    norms = normalize(small, ["in"]).factors["in"].norm(dim=0)
    assert_close(norms, torch.ones_like(norms), 1e-2, "columns whose squares underflow")


@pytest.mark.parametrize("as_mask", [True, False])
def test_pruning_zeros_keeps_the_dense_kernel(as_mask):
    kernel = random_kernel(rank=8, groups=2)
    keep = torch.tensor([1, 2, 4, 7])
    mask = torch.zeros(8, dtype=torch.bool)
    mask[keep] = True
    kernel.weights[~mask] = 0
    pruned = prune(kernel, mask if as_mask else keep)
    assert (pruned.rank, pruned.groups, pruned.shape) == (4, 2, kernel.shape)
    assert_close(dense_kernel(pruned), dense_kernel(kernel), 1e-14, "pruned kernel")


def test_pruning_is_differentiable():
    kernel = random_kernel(requires_grad=True)
    dense_kernel(prune(kernel, torch.tensor([0, 3]))).sum().backward()
    assert kernel.weights.grad.nonzero().flatten().tolist() == [0, 3]


SURVIVORS = {
    "zeros go": ([3.0, 0.0, 1e-30, 2.0], {}, [0, 2, 3]),
    "a share of the largest goes": ([3.0, 0.29, 0.31, 2.0], {"threshold": 0.1}, [0, 2, 3]),
    "the share itself goes": ([4.0, 2.0], {"threshold": 0.5}, [0]),
    "a floor": ([3.0, 0.0, 0.1, 0.0], {"min_rank": 3}, [0, 1, 2]),
    "a floor above the rank": ([3.0, 0.0], {"min_rank": 5}, [0, 1]),
    "one is left of nothing": ([0.0, 0.0], {}, [0]),
    "groups keep as many": ([3.0, 1.0, 0.0, 0.0, 0.0, 2.0], {"groups": 2}, [0, 1, 3, 5]),
    "the strongest fill up groups": ([3.0, 3.0, 0.0, 0.1, 0.2, 3.0], {"groups": 2, "threshold": 0.5}, [0, 1, 4, 5]),
    "a floor for all groups": ([3.0, 1.0, 2.0, 1.0], {"groups": 2, "threshold": 0.9, "min_rank": 3}, [0, 1, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("case", SURVIVORS)
def test_survivors(case):
    strengths, options, expected = SURVIVORS[case]
    assert surviving(torch.tensor(strengths), **options).tolist() == expected


REFUSED = {
    "a negative amount": (lambda k: soft_threshold(k.weights, -1), ValueError, "at least 0, got -1"),
    "an amount of nan": (lambda k: soft_threshold(k.weights, float("nan")), ValueError, "at least 0, got nan"),
    "an unknown mode": (lambda k: normalize(k, ["t"]), KeyError, r"got \['t'\]"),
    "a mask of another length": (lambda k: prune(k, torch.ones(3) > 0), ValueError, r"mask of shape \[8\]"),
    "nothing kept": (lambda k: prune(k, torch.zeros(8) > 0), ValueError, "at least one"),
    "an index outside": (lambda k: prune(k, torch.tensor([8])), ValueError, r"0..7, got \[8\]"),
    "an index twice": (lambda k: prune(k, torch.tensor([1, 1, 4, 5])), ValueError, "must rise"),
    "unequal groups": (lambda k: prune(k, torch.tensor([0, 1, 4])), ValueError, r"got \[2, 1\]"),
    "strengths with nan": (lambda k: surviving(torch.tensor([float("nan")])), ValueError, "must be finite"),
    "a threshold of 1": (lambda k: surviving(torch.ones(2), 1.0), ValueError, r"\[0, 1\), got 1.0"),
    "a floor of 0": (lambda k: surviving(torch.ones(2), min_rank=0), ValueError, "positive int, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_sparsity_refuses(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make(random_kernel(rank=8, groups=2))
