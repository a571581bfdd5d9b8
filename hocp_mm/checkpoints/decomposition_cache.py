"""Fits of dense kernels, kept on disk between runs.

Decomposing a network takes minutes, and a run that starts again needs the same fits. A fit is found by a hash of
everything that it depends on: the values of the kernel, the arguments, the source of the fitting code and the version
of torch. A change of any of them finds nothing, so there is nothing to invalidate by hand.

One file per kernel, which appears whole or not at all, so several processes may share the folder. What is kept is only
ever a copy: a file that is not what the fit of this kernel would be counts as unknown, and without a folder that can be
written to, or one that others can write to (:mod:`hocp_mm.system.cache_folder`), everything is fitted as usual.

The errors of a fit that was found are computed anew, in float64: 65 ms for the largest layer of a ResNet-18 (512
channels, 512 components, one core), against the seconds that fitting it takes.
"""

import ast
import contextlib
import functools
import hashlib
import inspect
import logging
import math
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from hocp_mm.functional.cp import CPKernel, component_norms, dense_kernel, mode_names
from hocp_mm.functional.decompose import Decomposition, decompose, decompose_to_error
from hocp_mm.system.cache_folder import cache_folder, open_trusted, replacing_trusted, trusted_folder

_T = TypeVar("_T")
_FACTOR, _SEAL = "factors.", "checksum"
# Ours, drafts included; whatever else lies in the folder stays.
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors|\.[0-9a-f]{64}\.[0-9a-f]{32}\.part\.safetensors")
_DRAFT_SECONDS = 3600  # a draft this old is the rest of a process that was killed
_HEADER_BYTES = 2**16  # more than names, types and shapes of a fit take in its file
_logger = logging.getLogger("hocp_mm")


class DecompositionCache:
    """Decompose kernels, or take the result of an earlier run.

    Args:
        folder: Where the fits lie; made when the first one is kept, and not used if others can write to it. None
            takes ``decompositions`` in the folder of the package (``HOCP_MM_CACHE``, else ``$XDG_CACHE_HOME/hocp_mm``
            or ``~/.cache/hocp_mm``).
        limit_bytes: Size of the folder at most; the fits that were used longest ago go first.

    Attributes:
        folder: Where the fits lie; None if there is no such place.
        hits: Fits taken from the folder.
        misses: Fits computed.

    Raises:
        ValueError: If ``limit_bytes`` is negative.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = 2 * 1024**3) -> None:
        if limit_bytes < 0:
            raise ValueError(f"DecompositionCache: limit_bytes must not be negative, got {limit_bytes}.")
        self.limit_bytes = limit_bytes
        self.hits = self.misses = 0
        self._usable = True
        self.folder: Path | None = None
        try:
            self.folder = (cache_folder() / "decompositions" if folder is None else Path(folder)).expanduser()
            _fitting_code()
        except (OSError, RuntimeError) as error:  # no home; no source files
            self._go_without(error)

    def decompose(self, dense: Tensor, rank: int, *, groups: int = 1, seed: int = 0) -> Decomposition:
        """Return what :func:`hocp_mm.functional.decompose` returns for these arguments, bit for bit.

        Args:
            dense: ``[out, in / groups, *kernel_size]``.
            rank: Components over all groups.
            groups: Groups of the convolution.
            seed: Of the random start.

        Returns:
            The kernel with its errors.
        """
        return self._decomposed(
            dense,
            groups,
            _Goal("rank", rank, seed),
            lambda: decompose(dense, rank, groups=groups, seed=seed),
        )

    def decompose_to_error(
        self, dense: Tensor, target_error: float, *, groups: int = 1, seed: int = 0
    ) -> Decomposition:
        """Return what :func:`hocp_mm.functional.decompose_to_error` returns for these arguments, bit for bit.

        Args:
            dense: ``[out, in / groups, *kernel_size]``.
            target_error: Largest ``relative_error``, in (0, 1).
            groups: Groups of the convolution.
            seed: Of the random starts.

        Returns:
            The kernel with its errors.
        """
        return self._decomposed(
            dense,
            groups,
            _Goal("error", target_error, seed),
            lambda: decompose_to_error(dense, target_error, groups=groups, seed=seed),
        )

    def remember(
        self, tensors: Mapping[str, Tensor], context: str, compute: Callable[[], dict[str, Tensor]], most_bytes: int
    ) -> dict[str, Tensor]:
        """Return what a longer computation makes of tensors; it runs if no earlier one has left its result.

        Args:
            tensors: Everything that it depends on, but for what is in ``context``.
            context: Its arguments, in words.
            compute: The computation; a change of its module, or of any that this one uses, finds no old result.
            most_bytes: Larger than what it returns.

        Returns:
            Tensors by name, on the CPU where they were kept.
        """

        def restore(content: dict[str, Tensor], key: str) -> dict[str, Tensor]:
            return _unsealed(content, key)

        code = _code_of(sys.modules[compute.__module__]) if self._usable else ""
        devices = sorted({tensor.device.type for tensor in tensors.values()})
        return self._find(tensors, (context, devices, code), compute, lambda found: found, restore, most_bytes)

    def _decomposed(
        self, dense: Tensor, groups: int, goal: "_Goal", fit_anew: Callable[[], Decomposition]
    ) -> Decomposition:
        sizes = (dense.shape[0] // groups, *dense.shape[1:])
        # Where the rank is free, a fit has no more numbers than the dense kernel, or one component per group.
        most = goal.value if goal.kind == "rank" else dense.numel() // sum(sizes) + groups
        limit = _HEADER_BYTES + int(most) * (1 + sum(sizes)) * dense.element_size()
        # Device and strides decide which kernels of torch run, and so the last bits.
        context = (*goal, groups, dense.device.type, dense.stride(), _fitting_code() if self._usable else "")

        def restore(content: dict[str, Tensor], key: str) -> Decomposition:
            fit = _restore(content, key, dense, groups)
            reached = fit.kernel.rank == goal.value if goal.kind == "rank" else fit.relative_error <= goal.value
            if not reached:
                raise ValueError(f"it must reach {goal}, got rank {fit.kernel.rank}, error {fit.relative_error:.4g}")
            return fit

        return self._find({"dense": dense}, context, fit_anew, _content, restore, limit)

    def _find(
        self,
        tensors: Mapping[str, Tensor],
        context: tuple[Any, ...],
        compute: Callable[[], _T],
        content: Callable[[_T], dict[str, Tensor]],
        restore: Callable[[dict[str, Tensor], str], _T],
        limit: int,
    ) -> _T:
        """Return a result from the folder, as ``restore`` makes it of a file, or a new one, kept as ``content``."""
        if not self._usable or self.folder is None:
            self.misses += 1
            return compute()
        key = _digest(tensors, repr((*context, torch.__version__))).hexdigest()
        name = f"{key}.safetensors"
        found = None
        try:
            found = _read(trusted_folder(self.folder) / name, limit, lambda kept: restore(kept, key))
        except FileNotFoundError:  # made when the first one is kept
            _logger.debug("hocp_mm: there is no folder %s yet.", self.folder)
        except OSError as error:
            self._go_without(error)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        result = compute()
        if self._usable:
            try:
                self._keep(trusted_folder(self.folder, make=True) / name, key, content(result))
            except OSError as error:
                self._go_without(error)
        return result

    def _keep(self, file: Path, key: str, content: Mapping[str, Tensor]) -> None:
        """Write tensors under their name at once, so that no other process ever sees a part of them."""
        sealed = {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}
        sealed[_SEAL] = torch.tensor(_checksum(sealed, key), dtype=torch.uint8)
        with replacing_trusted(file) as draft:
            draft.write(save(sealed))
        self._remove_oldest(file.parent)

    def _remove_oldest(self, folder: Path) -> None:
        """Keep the folder within its limit. Rests of processes that were killed count, too."""
        found = sorted(_kept_files(folder))
        excess = sum(size for _, size, _ in found) - self.limit_bytes
        for _, size, path in found:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)  # another process may be faster
            excess -= size

    def _go_without(self, error: Exception) -> None:
        self._usable = False
        _logger.warning("hocp_mm: decompositions are not kept (%s); every run fits them anew.", error)


def _kept_files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield time of last use, size and path of every file of ours that nobody is writing to."""
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile: another process keeps the limit as well
                status = path.lstat()
                is_being_written = path.name.startswith(".") and time.time() - status.st_mtime < _DRAFT_SECONDS
                if stat.S_ISREG(status.st_mode) and not is_being_written:
                    yield status.st_mtime, status.st_size, path


class _Goal(NamedTuple):
    """What a call asks for: components (``rank``) or a relative error at most."""

    kind: Literal["rank", "error"]
    value: float
    seed: int


def _read(file: Path, limit: int, restore: Callable[[dict[str, Tensor]], _T]) -> _T | None:
    """Return what was kept, or None if there is nothing, or nothing that is what it should be."""
    try:
        with open_trusted(file, limit) as kept:
            result = restore(load(kept.read(limit)))
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever the libraries below make of what they were never meant to read
        _logger.info("hocp_mm: %s is not what was kept (%s: %s), fitting anew.", file, type(error).__name__, error)
        return None
    with contextlib.suppress(OSError):  # a folder that can only be read serves as well
        os.utime(file)
    return result


def _unsealed(content: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    """Return the tensors of a file without their checksum.

    Raises:
        ValueError: If it is not theirs.
    """
    seal = content.pop(_SEAL, None)
    if seal is None or seal.dtype != torch.uint8 or seal.tolist() != _checksum(content, key):
        raise ValueError("it must hold what its checksum was taken of")
    return content


def _content(fit: Decomposition) -> dict[str, Tensor]:
    return {
        **{f"{_FACTOR}{name}": factor for name, factor in fit.kernel.factors.items()},
        "weights": fit.kernel.weights,
        "errors": torch.tensor([fit.relative_error, fit.degeneracy, fit.weighted_error], dtype=torch.float64),
    }


def _restore(content: dict[str, Tensor], key: str, dense: Tensor, groups: int) -> Decomposition:
    """Return the fit that a file holds.

    Raises:
        ValueError: If it is not one of this kernel, or not the one that its checksum and its errors belong to.
    """
    rank = content["weights"].numel()
    sizes = (dense.shape[0] // groups, *dense.shape[1:])
    expected = {
        f"{_FACTOR}{name}": (dense.dtype, (size, rank))
        for name, size in zip(mode_names(dense.ndim - 2), sizes, strict=True)
    }
    expected |= {"weights": (dense.dtype, (rank,)), "errors": (torch.float64, (3,)), _SEAL: (torch.uint8, (32,))}
    if (actual := {name: (t.dtype, tuple(t.shape)) for name, t in content.items()}) != expected:
        raise ValueError(f"it must hold {expected}, got {actual}"[:300])
    content = _unsealed(content, key)
    factors = {name.removeprefix(_FACTOR): t.to(dense.device) for name, t in content.items() if _FACTOR in name}
    kernel = CPKernel(content["weights"].to(dense.device), factors, groups)
    errors, true_errors = content["errors"].tolist(), _errors(dense, kernel)
    if not all(math.isclose(*pair, rel_tol=1e-6, abs_tol=1e-9) for pair in zip(errors, true_errors, strict=True)):
        raise ValueError(f"its errors must be {true_errors}, got {errors}")
    return Decomposition(kernel, *errors)


@torch.no_grad()
def _errors(dense: Tensor, kernel: CPKernel) -> tuple[float, float, float]:
    """Return what a `Decomposition` says of a kernel: relative error, degeneracy and, without a moment, the former."""
    double = CPKernel(kernel.weights.double(), {n: f.double() for n, f in kernel.factors.items()}, kernel.groups)
    target = dense.double()
    energy = max(float(target.square().sum()), torch.finfo(torch.float64).tiny)
    error = math.sqrt(float((target - dense_kernel(double)).square().sum()) / energy)
    return error, float(component_norms(double).square().sum()) / energy, error


def _checksum(content: Mapping[str, Tensor], key: str) -> list[int]:
    return list(_digest(content, key).digest())


def _digest(tensors: Mapping[str, Tensor], context: str) -> "hashlib._Hash":
    """Hash tensors with their names, types and shapes."""
    digest = hashlib.sha256(context.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest


def _fitting_code() -> str:
    """Hash the source of the code that fits kernels."""
    return _code_of(sys.modules[Decomposition.__module__])


@functools.cache
def _code_of(module: ModuleType) -> str:
    """Hash the source of a module and of every module of this package that it uses."""
    return hashlib.sha256(repr(sorted(_sources(module).items())).encode()).hexdigest()


def _sources(module: ModuleType) -> dict[str, str]:
    """Return the source of a module and of every module of this package that it uses, by name."""
    sources: dict[str, str] = {}
    pending = [module]
    while pending:
        module = pending.pop()
        if module.__name__ not in sources:
            sources[module.__name__] = inspect.getsource(module)
            pending += _used_modules(sources[module.__name__])
    return sources


def _used_modules(source: str) -> Iterator[ModuleType]:
    """Yield the modules of this package that a source text imports from; all of them are loaded by now."""
    package = __name__.partition(".")[0]
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.ImportFrom) and statement.module and statement.module.startswith(f"{package}."):
            for alias in statement.names:
                name = f"{statement.module}.{alias.name}"  # a module itself, or something in one
                yield sys.modules[name if name in sys.modules else statement.module]
