import pytest
import torch
import torch.nn.functional as F

from hocp_mm.functional import dense_kernel
from hocp_mm.functional.decompose import decompose, whitened
from tests.functional.test_decompose import structured_kernel
from tests.laws import relative_error


def decaying_moment(channels, decay=2.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64))
    return (basis * torch.arange(1, channels + 1, dtype=torch.float64) ** -decay) @ basis.T


def draw(moment, *size):
    """Inputs ``[batch, in, *size]`` of this second moment, uncorrelated between positions."""
    root = torch.linalg.cholesky(moment + 1e-12 * torch.eye(len(moment)))
    white = torch.randn(8, len(moment), *size, dtype=torch.float64)
    return torch.einsum("ij,bj...->bi...", root, white)


def test_the_output_error_falls_on_correlated_inputs():
    dense, moment = structured_kernel(24, 24, 3, 3), decaying_moment(24)
    plain, weighted = decompose(dense, 24), decompose(dense, 24, input_moment=moment)
    x = draw(moment, 40, 40)
    errors = [relative_error(F.conv2d(x, dense_kernel(fit.kernel)), F.conv2d(x, dense)) for fit in (plain, weighted)]
    assert errors[1] < 0.6 * errors[0]
    assert weighted.weighted_error == pytest.approx(errors[1], rel=0.05)  # sampling
    assert weighted.relative_error > plain.relative_error
    assert weighted.degeneracy <= 10


def test_the_identity_changes_nothing():
    dense = structured_kernel(12, 10, 3, 3)
    plain, weighted = decompose(dense, 10), decompose(dense, 10, input_moment=torch.eye(10))
    assert weighted.relative_error == pytest.approx(plain.relative_error, rel=1e-4)
    assert weighted.weighted_error == pytest.approx(weighted.relative_error, rel=1e-9)
    assert relative_error(dense_kernel(weighted.kernel), dense_kernel(plain.kernel)) < 0.01


def test_channels_that_never_fire_cost_nothing_and_stay_finite():
    dense, moment = structured_kernel(16, 16, 3, 3), torch.eye(16)
    moment[8:] = 0
    plain, weighted = decompose(dense, 8), decompose(dense, 8, input_moment=moment)
    seen = relative_error(dense_kernel(plain.kernel)[:, :8], dense[:, :8])
    assert weighted.weighted_error < 0.9 * seen
    assert torch.isfinite(dense_kernel(weighted.kernel)).all()
    assert weighted.relative_error < 1


def test_every_group_has_its_moment():
    dense = structured_kernel(16, 8, 3, 3)
    moments = torch.stack([decaying_moment(8, seed=1), decaying_moment(8, seed=2)])
    right = decompose(dense, 16, groups=2, input_moment=moments)
    swapped = decompose(dense, 16, groups=2, input_moment=moments.flip(0))
    x = torch.cat([draw(moment, 40, 40) for moment in moments], dim=1)
    errors = [
        relative_error(F.conv2d(x, dense_kernel(fit.kernel), groups=2), F.conv2d(x, dense, groups=2))
        for fit in (right, swapped)
    ]
    assert errors[0] < 0.8 * errors[1]
    assert right.weighted_error == pytest.approx(errors[0], rel=0.05)


def test_pointwise_kernels_take_the_best_output():
    dense, moment = structured_kernel(12, 16, 1, 1, decay=0.0), decaying_moment(16)
    # E |y|^2 of the best rank-4 map of the output: the singular values of W M^(1/2) (Eckart and Young)
    values, vectors = torch.linalg.eigh(moment)
    singular = torch.linalg.svdvals(dense.flatten(1) @ (vectors * values.clamp_min(0).sqrt()))
    best = float(singular[4:].norm() / singular.norm())
    assert best <= decompose(dense, 4, input_moment=moment).weighted_error <= best * 1.02


@pytest.mark.parametrize("side", ["input_moment", "output_moment"])
def test_a_moment_of_zeros_is_no_information(side):
    dense = structured_kernel(8, 8, 3, 3)
    plain, weighted = decompose(dense, 8), decompose(dense, 8, **{side: torch.zeros(8, 8)})
    assert weighted.relative_error == weighted.weighted_error == plain.relative_error


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (torch.eye(3), r"must have shape \(1, 4, 4\), got \(3, 3\)"),
        (torch.full((4, 4), float("inf")), "_moment must be finite"),
        (torch.triu(torch.ones(4, 4)), "symmetric and positive semi-definite"),
        (-torch.eye(4), "symmetric and positive semi-definite"),
    ],
    ids=["shape", "inf", "not symmetric", "negative"],
)
@pytest.mark.parametrize("side", ["input_moment", "output_moment"])
def test_refusals(moment, message, side):
    with pytest.raises(ValueError, match=message):
        decompose(torch.randn(4, 4, 3, 3), 2, **{side: moment})


def test_outputs_count_by_their_moment():
    dense, inputs, outputs = structured_kernel(24, 24, 3, 3), decaying_moment(24), decaying_moment(24, seed=2)
    both = {"input_moment": inputs, "output_moment": outputs}
    plain, weighted = decompose(dense, 24, input_moment=inputs), decompose(dense, 24, **both)
    x, root = draw(inputs, 40, 40), torch.linalg.cholesky(outputs)
    kernels = [dense_kernel(plain.kernel), dense_kernel(weighted.kernel), dense]
    *fits, exact = (torch.einsum("op,bo...->bp...", root, F.conv2d(x, kernel)) for kernel in kernels)
    cost = [relative_error(fit, exact) for fit in fits]
    assert cost[1] < 0.8 * cost[0]
    assert weighted.weighted_error == pytest.approx(cost[1], rel=0.05)  # sampling


def test_pointwise_kernels_take_the_best_between_both_moments():
    dense, inputs, outputs = (
        structured_kernel(12, 16, 1, 1, decay=0.0),
        decaying_moment(16),
        decaying_moment(12, seed=2),
    )
    seen = whitened(dense, 1, inputs, outputs)
    singular = torch.linalg.svdvals(seen.flatten(1))
    best = float(singular[4:].norm() / singular.norm())
    fit = decompose(dense, 4, input_moment=inputs, output_moment=outputs)
    assert fit.weighted_error == pytest.approx(best, rel=0.1)


def test_whitened_kernels_have_the_energy_that_their_loss_costs():
    dense, inputs, outputs = (
        torch.randn(8, 6, 3, dtype=torch.float64),
        *(torch.stack([decaying_moment(size, 0.5, seed) for seed in (1, 2)]) for size in (6, 4)),
    )
    energy = float(whitened(dense, 2, inputs, outputs).square().sum())
    expected = sum(
        float(torch.einsum("oit,op,ij,pjt->", block, h, m, block))
        for block, h, m in zip(dense.chunk(2), outputs, inputs, strict=True)
    )
    assert energy == pytest.approx(expected, rel=0.05)  # shrinkage
