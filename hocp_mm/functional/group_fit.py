"""One group of a kernel, prepared once for fits at any rank.

A group goes through: whitening of its inputs and outputs (only with moments), lossless compression
(:mod:`hocp_mm.functional.compression`), accelerated least squares (:mod:`hocp_mm.functional.als`), and, where its
components cancel too much, the correction of :mod:`hocp_mm.functional.bounded_norm`.
Kernels with at most two modes longer than 1, such as all 1x1 kernels, are matrices and take the exact truncated SVD.
"""

from functools import cached_property

import torch
from torch import Tensor

from hocp_mm.functional import als
from hocp_mm.functional.bounded_norm import bound_energy
from hocp_mm.functional.compression import CompressedKernel, compress
from hocp_mm.functional.cp import CPKernel, balance, mode_names

Moments = tuple[Tensor | None, Tensor | None]
"""Of output and input channels."""

_SHRINKAGE = 1e-2
_HEADROOM = 1e-3  # below the limit, so that rounding to the dtype of the kernel does not lift a fit over it


class GroupFit:
    """One group of a kernel, prepared for fits at any rank.

    Args:
        dense: ``[out, in, *taps]`` in float64.
        moments: Of its output and its input channels, ``[out, out]`` and ``[in, in]`` in float64: what an error of the
            weights is measured by. None or zeros for a mode whose entries count as they are.
        max_degeneracy: Largest ``sum_r |component r|^2 / |W|^2`` of a fit.
    """

    def __init__(self, dense: Tensor, moments: Moments, max_degeneracy: float) -> None:
        self._sizes = dense.shape
        dense, self._unwhiten = see_through(dense, moments)
        self._norm = float(dense.norm())
        self._dense = dense / (self._norm or 1.0)
        self._long = [mode for mode, size in enumerate(dense.shape) if size > 1]
        self._compressed: CompressedKernel | None = None
        if self._norm and len(self._long) > 2:
            self._compressed = compress(self._dense)
        self._max_degeneracy = max_degeneracy

    @property
    def energy(self) -> float:
        """``|W|^2`` of what is fitted, the whitened kernel where there is a moment."""
        return self._norm**2

    def least_residual(self, rank: int) -> float:
        """Bound from below the energy that any CP kernel of ``rank`` components leaves of what is fitted.

        Its unfoldings have matrix rank ``rank`` at most, and those leave at least the energy of all but as many
        singular values.

        Returns:
            The bound, in the units of ``energy``.
        """
        return self.energy * max(float(s[: max(0, len(s) - rank)].sum()) for s in self._spectra)

    def fit(self, rank: int, generator: torch.Generator, max_iter: int, tol: float, enough: float = 0.0) -> CPKernel:
        """Fit ``rank`` components, in float64 and balanced."""
        if not self._norm:
            factors = [self._dense.new_zeros(size, rank) for size in self._sizes]
        elif self._compressed is None:
            factors = self._svd(rank)
        else:
            core = self._compressed.core
            factors = als.fit(core, rank, generator, max_iter, tol, enough)
            if als.energy(factors) > self._max_degeneracy:
                factors = bound_energy(als.Target(core), factors, self._max_degeneracy * (1 - _HEADROOM))
            factors = self._compressed.expand(factors)
        factors[0] = factors[0] * self._norm
        for mode, inverse in self._unwhiten.items():
            factors[mode] = inverse @ factors[mode]
        names = mode_names(len(self._sizes) - 2)
        return balance(CPKernel(factors[0].new_ones(rank), dict(zip(names, factors, strict=True))))

    @cached_property
    def _spectra(self) -> tuple[Tensor, ...]:
        """Squared singular values of the unfoldings, rising."""
        if self._compressed is None:
            return (torch.linalg.svdvals(self._matrix()).square().flip(0),)
        return self._compressed.spectra

    def _matrix(self) -> Tensor:
        rows = self._sizes[self._long[0]] if self._long else 1
        return self._dense.reshape(rows, -1)

    def _svd(self, rank: int) -> list[Tensor]:
        """Take the best rank-``rank`` matrix of a kernel with at most two modes longer than 1."""
        u, s, vh = torch.linalg.svd(self._matrix(), full_matrices=False)
        kept = min(rank, s.shape[0])
        pad = (0, rank - kept)  # components beyond the matrix rank are zero, and so exact
        factors = [self._dense.new_ones(size, rank) for size in self._sizes]
        rows, columns = [*self._long, *(m for m in range(len(self._sizes)) if m not in self._long)][:2]
        factors[rows] = torch.nn.functional.pad(u[:, :kept] * s[:kept], pad)
        factors[columns] = torch.nn.functional.pad(vh[:kept].T, pad)
        return factors


def see_through(dense: Tensor, moments: Moments) -> tuple[Tensor, dict[int, Tensor]]:
    """Whiten the first two modes of a group's kernel by the moments that are neither None nor zero.

    Returns:
        The whitened kernel, and for each whitened mode what takes its factor back.
    """
    inverses: dict[int, Tensor] = {}
    for mode, moment in enumerate(moments):
        if moment is not None and moment.any():
            root, inverses[mode] = whitening(moment)
            dense = torch.movedim(dense.movedim(mode, -1) @ root, -1, mode)
    return dense, inverses


def whitening(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a moment and its inverse.

    The moment is shrunk a little towards the identity: directions that calibration hardly saw keep a small weight, and
    the inverse stays finite when the moment is singular.
    """
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    roots = ((1 - _SHRINKAGE) * values.clamp_min(0.0) + _SHRINKAGE * values.mean()).sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
