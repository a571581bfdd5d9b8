import pytest
import torch

from hocp_mm.functional import CPKernel, balance, dense_kernel, mode_names, resolve_rank
from hocp_mm.functional.cp import component_norms
from tests.laws import assert_close, random_kernel


@pytest.mark.parametrize("taps", [(3,), (3, 5), (3, 1, 2), (2, 3, 2, 3)], ids=str)
def test_dense_kernel_is_the_sum_of_rank_one_terms(taps):
    kernel = random_kernel(taps=taps)
    modes = "abcdef"[: len(taps) + 2]
    spec = ",".join(f"{m}r" for m in modes) + ",r->" + modes
    expected = torch.einsum(spec, *(kernel.factors[n] for n in mode_names(len(taps))), kernel.weights)
    assert_close(dense_kernel(kernel), expected, 1e-13, "dense kernel")


def test_grouped_kernel_is_made_of_its_groups():
    kernel = random_kernel(out=6, in_=4, rank=10, groups=2)
    for group in range(2):
        part = slice(5 * group, 5 * group + 5)
        alone = CPKernel(kernel.weights[part], {n: f[:, part] for n, f in kernel.factors.items()})
        assert_close(dense_kernel(kernel)[3 * group : 3 * group + 3], dense_kernel(alone), 1e-13, f"group {group}")


def test_factors_are_found_by_name_whatever_their_order():
    kernel = random_kernel(taps=(2, 3))
    shuffled = CPKernel(kernel.weights, {n: kernel.factors[n] for n in ("w", "in", "h", "out")})
    assert tuple(shuffled.factors) == mode_names(2)
    assert torch.equal(dense_kernel(shuffled), dense_kernel(kernel))


def test_balance_keeps_the_kernel_and_equalises_the_norms():
    kernel = random_kernel()
    kernel.factors["h"].mul_(100)
    kernel.factors["w"][:, 3] = 0
    balanced = balance(kernel)
    assert_close(dense_kernel(balanced), dense_kernel(kernel), 1e-12, "balanced kernel")
    norms = torch.stack([f.norm(dim=0) for f in balanced.factors.values()])
    assert_close(norms, norms.mean(dim=0).expand_as(norms), 1e-12, "factor norms")
    assert_close(component_norms(balanced), component_norms(kernel), 1e-12, "component norms")


REFUSED_KERNELS = {
    "weights that are no vector": (lambda k: CPKernel(k.weights[None], k.factors), r"weights must have shape \[rank\]"),
    "a wrong mode name": (
        lambda k: CPKernel(k.weights, {**{n: f for n, f in k.factors.items() if n != "w"}, "t": k.factors["w"]}),
        "must be named .*'h', 'w'",
    ),
    "a factor of another rank": (
        lambda k: CPKernel(k.weights, {**k.factors, "h": torch.ones(3, 7)}),
        "factor 'h' must have shape",
    ),
    "groups that do not divide the rank": (lambda k: CPKernel(k.weights, k.factors, 3), "multiple of groups=3, got 8"),
}


@pytest.mark.parametrize("case", REFUSED_KERNELS)
def test_kernel_refuses(case):
    make, message = REFUSED_KERNELS[case]
    with pytest.raises(ValueError, match=message):
        make(random_kernel())


RANKS = {
    "an int": (7, 7),
    "expansion 1": ("x1", 64),
    "expansion 3": ("x3", 192),
    "a fractional expansion, rounded up": ("x0.51", 33),
    "parameter parity": ("same", 64 * 128 * 9 // (64 + 128 + 6)),
}


@pytest.mark.parametrize("case", RANKS)
def test_resolve_rank(case):
    rank, expected = RANKS[case]
    assert resolve_rank(rank, 64, 128, (3, 3)) == expected


def test_grouped_ranks_are_multiples_of_the_groups():
    assert resolve_rank("x0.1", 30, 30, (3, 3), groups=15) == 15
    with pytest.raises(ValueError, match="multiple of groups=4, got 6"):
        resolve_rank(6, 8, 8, (3, 3), groups=4)


@pytest.mark.parametrize("rank", [0, -1, True, "x0", "3x", "auto", None], ids=repr)
def test_resolve_rank_refuses(rank):
    with pytest.raises(ValueError, match="rank: must be"):
        resolve_rank(rank, 64, 64, (3, 3))
