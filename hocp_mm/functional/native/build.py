"""Build the compiled CPU kernel on the user's machine, once, and load it.

The sources beside this file have a plain C interface and include nothing but the standard library, so the build takes
a few seconds, depends on no header of PyTorch, and fits every version of it. Without a C++ compiler with OpenMP the
package works as well, on PyTorch's own operations.

Environment: ``HOCP_MM_NATIVE=0`` switches the kernel off, ``CXX`` names the compiler, ``HOCP_MM_CACHE`` the folder that
keeps the library (default ``$XDG_CACHE_HOME/hocp_mm`` or ``~/.cache/hocp_mm``).
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

# Brings its OpenMP runtime into the process first; the library below then shares it, and so PyTorch's threads.
import torch  # noqa: F401

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno")
_TIMEOUT_S = 300
_logger = logging.getLogger("hocp_mm")


class NativeUnavailableError(RuntimeError):
    """The compiled kernel cannot be had here; the message says why."""


class SwitchedOffError(NativeUnavailableError):
    """The user asked to do without."""


def load_library() -> ctypes.CDLL:
    """Load the compiled kernel, building it first where no build for this machine and source is kept.

    Returns:
        The loaded library.

    Raises:
        SwitchedOffError: If the user switched it off.
        NativeUnavailableError: If no compiler with OpenMP is found, or the build fails.
    """
    if os.environ.get("HOCP_MM_NATIVE", "1") == "0":
        raise SwitchedOffError("switched off by HOCP_MM_NATIVE=0")
    if platform.system() != "Linux":
        raise NativeUnavailableError(f"built on Linux only, this is {platform.system()}")
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++")
    if compiler is None:
        raise NativeUnavailableError("no C++ compiler found (CXX or g++)")
    name = f"cp_conv-{_fingerprint(compiler)}.so"
    try:
        return _load_kept(compiler, cache_folder() / name)
    except OSError as error:  # a read-only home, or none
        _logger.info("hocp_mm: the kernel cache cannot be used (%s), building for this process only.", error)
    try:
        with tempfile.TemporaryDirectory(prefix="hocp_mm-") as folder:
            _build(compiler, Path(folder) / name)
            return ctypes.CDLL(str(Path(folder) / name))
    except OSError as error:
        raise NativeUnavailableError(f"the build cannot be loaded ({error})") from error


def _load_kept(compiler: str, kept: Path) -> ctypes.CDLL:
    kept.parent.mkdir(parents=True, exist_ok=True)
    if kept.is_file():
        try:
            return ctypes.CDLL(str(kept))
        except OSError as error:
            _logger.info("hocp_mm: %s is damaged (%s), building it anew.", kept, error)
    _build(compiler, kept)
    return ctypes.CDLL(str(kept))


def cache_folder() -> Path:
    """Return the folder that keeps what this package makes once; it may not exist yet.

    Raises:
        OSError: If there is no home folder.
    """
    if named := os.environ.get("HOCP_MM_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "hocp_mm"
    try:
        return Path.home() / ".cache" / "hocp_mm"
    except RuntimeError as error:  # a user id without a home, as in some containers
        raise OSError(str(error)) from error


def _fingerprint(compiler: str) -> str:
    """Hash of what the machine code depends on: the sources, the flags, the compiler and the processor."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in {".cpp", ".h"}:
            digest.update(path.name.encode() + path.read_bytes())
    version = _run([compiler, "--version"])
    digest.update(compiler.encode() + version.stdout.encode())
    digest.update(_processor().encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Name and features of the processor: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(wanted)}))


def _build(compiler: str, target: Path) -> None:
    """Compile to ``target``; it appears whole or not at all, also when several processes build it at once."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        command = [compiler, *FLAGS, "-o", str(fresh), str(SOURCES / "cp_conv.cpp")]
        result = _run(command)
        if result.returncode:
            first = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
            raise NativeUnavailableError(f"the build failed ({first}): {' '.join(command)}")
        fresh.replace(target)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NativeUnavailableError(f"no answer for {_TIMEOUT_S} s from: {' '.join(command)}") from error
