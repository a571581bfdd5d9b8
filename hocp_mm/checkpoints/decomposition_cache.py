"""Fits of dense kernels, kept on disk between runs.

Decomposing a network takes minutes, and a run that starts again needs the same fits. A fit is found by a hash of
everything that it depends on: the values of the kernel, the arguments, the source of the fitting code and the version
of torch. A change of any of them finds nothing, so there is nothing to invalidate by hand.

One file per kernel, which appears whole or not at all, so several processes may share the folder. What is kept is only
ever a copy: a damaged file counts as unknown, and without a folder to write to everything is fitted as usual.
"""

import ast
import contextlib
import functools
import hashlib
import inspect
import logging
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hocp_mm.functional.cp import CPKernel
from hocp_mm.functional.decompose import Decomposition, decompose, decompose_to_error
from hocp_mm.functional.native.build import cache_folder

_FACTOR = "factors."
_NAME = re.compile(r"[0-9a-f]{64}(\.safetensors|\.[0-9a-f]{32}\.tmp)")  # ours; whatever else lies in the folder stays
_logger = logging.getLogger("hocp_mm")


class DecompositionCache:
    """Decompose kernels, or take the result of an earlier run.

    Args:
        folder: Where the fits lie; made when the first one is kept. None takes ``decompositions`` in the folder of
            the package (``HOCP_MM_CACHE``, else ``$XDG_CACHE_HOME/hocp_mm`` or ``~/.cache/hocp_mm``).
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
            self._code = _fitting_code()
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
        return self._find(dense, groups, ("rank", rank, seed), lambda: decompose(dense, rank, groups=groups, seed=seed))

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
        return self._find(
            dense,
            groups,
            ("error", target_error, seed),
            lambda: decompose_to_error(dense, target_error, groups=groups, seed=seed),
        )

    def _find(
        self, dense: Tensor, groups: int, settings: tuple[object, ...], fit_anew: Callable[[], Decomposition]
    ) -> Decomposition:
        if not self._usable or self.folder is None:
            self.misses += 1
            return fit_anew()
        key = self._key(dense, groups, settings)
        file = self.folder / f"{key}.safetensors"
        if (found := _read(file, key)) is not None:
            self.hits += 1
            with contextlib.suppress(OSError):  # a folder that can only be read serves as well
                os.utime(file)
            errors = found.pop("errors").tolist()
            weights, factors = found.pop("weights"), {n.removeprefix(_FACTOR): t for n, t in found.items()}
            where = dense.device
            kernel = CPKernel(weights.to(where), {n: f.to(where) for n, f in factors.items()}, groups)
            return Decomposition(kernel, *errors)
        self.misses += 1
        fit = fit_anew()
        try:
            self._keep(file, key, fit)
        except OSError as error:
            self._go_without(error)
        return fit

    def _key(self, dense: Tensor, groups: int, settings: tuple[object, ...]) -> str:
        # Device and strides decide which kernels of torch run, and so the last bits.
        context = (*settings, groups, dense.device.type, dense.stride(), torch.__version__, self._code)
        return _digest({"dense": dense}, repr(context)).hexdigest()

    def _keep(self, file: Path, key: str, fit: Decomposition) -> None:
        """Write a fit under its name at once, so that no other process ever sees a part of it."""
        content = {f"{_FACTOR}{name}": factor for name, factor in fit.kernel.factors.items()}
        content["weights"] = fit.kernel.weights
        content["errors"] = torch.tensor([fit.relative_error, fit.degeneracy, fit.weighted_error], dtype=torch.float64)
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}
        content["checksum"] = torch.tensor(_checksum(content, key), dtype=torch.uint8)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f"{key}.{uuid.uuid4().hex}.tmp")
        try:
            fresh.write_bytes(save(content))
            fresh.replace(file)
        finally:
            fresh.unlink(missing_ok=True)  # there only if something went wrong
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
    """Yield time of last use, size and path of every file of ours."""
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile: another process keeps the limit as well
                status = path.stat()
                yield status.st_mtime, status.st_size, path


def _read(file: Path, key: str) -> dict[str, Tensor] | None:
    """Return the content of a kept fit, or None if there is none that is whole."""
    try:
        content = load(file.read_bytes())
        expected = content.pop("checksum")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        _logger.info("hocp_mm: %s is no decomposition (%s: %s), fitting anew.", file, type(error).__name__, error)
        return None
    if expected.tolist() != _checksum(content, key):
        _logger.info("hocp_mm: %s is damaged, fitting anew.", file)
        return None
    return content


def _checksum(content: Mapping[str, Tensor], key: str) -> list[int]:
    return list(_digest(content, key).digest())


def _digest(tensors: Mapping[str, Tensor], context: str) -> "hashlib._Hash":
    """Hash tensors with their names, types and shapes."""
    digest = hashlib.sha256(context.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest


@functools.cache
def _fitting_code() -> str:
    """Hash the source of the code that fits."""
    return hashlib.sha256(repr(sorted(_fitting_sources().items())).encode()).hexdigest()


def _fitting_sources() -> dict[str, str]:
    """Return the source of the module that fits and of every module of this package that it uses, by name."""
    sources: dict[str, str] = {}
    pending = [sys.modules[Decomposition.__module__]]
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
