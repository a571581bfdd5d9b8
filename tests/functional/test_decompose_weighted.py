import pytest
import torch
import torch.nn.functional as F

from hocp_mm.functional import dense_kernel
from hocp_mm.functional.decompose import decompose
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


def test_a_moment_of_zeros_is_no_information():
    dense = structured_kernel(8, 8, 3, 3)
    plain, weighted = decompose(dense, 8), decompose(dense, 8, input_moment=torch.zeros(8, 8))
    assert weighted.relative_error == weighted.weighted_error == plain.relative_error


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (torch.eye(3), r"must have shape \(1, 4, 4\), got \(3, 3\)"),
        (torch.full((4, 4), float("inf")), "input_moment must be finite"),
        (torch.triu(torch.ones(4, 4)), "symmetric and positive semi-definite"),
        (-torch.eye(4), "symmetric and positive semi-definite"),
    ],
    ids=["shape", "inf", "not symmetric", "negative"],
)
def test_refusals(moment, message):
    with pytest.raises(ValueError, match=message):
        decompose(torch.randn(4, 4, 3, 3), 2, input_moment=moment)
