"""Build the compiled CPU kernel on the user's machine, once, and load it.

The sources beside this file have a plain C interface and include nothing but the standard library, so the build takes
a few seconds, depends on no header of PyTorch, and fits every version of it. Without a C++ compiler with OpenMP the
package works as well, on PyTorch's own operations.

A kept library runs as whoever loads it, and its name can be guessed. Three things stand before it: the folder is one
that only this user writes to (:mod:`hocp_mm.system.cache_folder`), else the kernel is built for this process alone; a
library that was cut or damaged, whose pages would be missing when it runs (SIGBUS), does not end in its own hash and is
built anew; and what is loaded is the bytes that were checked. The hash guards against accidents, the folder against
people.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Brings its OpenMP runtime into the process first; the library below then shares it, and so PyTorch's threads.
import torch  # noqa: F401

from hocp_mm.system.cache_folder import UntrustedError, cache_folder, open_trusted, replacing_trusted, trusted_folder

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno")
_TIMEOUT_S = 300
_LIMIT_BYTES = 64 * 2**20  # the library has some 100 kB; nothing like this size is read
_SEAL_BYTES = hashlib.sha256().digest_size
_logger = logging.getLogger("hocp_mm")


class NativeUnavailableError(RuntimeError):
    """The compiled kernel cannot be had here; the message says why."""


class SwitchedOffError(NativeUnavailableError):
    """The user asked to do without."""


def load_library() -> ctypes.CDLL:
    """Load the compiled kernel, building it first where no whole build for this machine and source is kept.

    What is loaded is what was read and checked: the file is never opened a second time by its name.

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
    kept, content = _kept_file(name), b""
    if kept is not None:
        try:
            if os.path.lexists(kept):
                return _load(_read(kept))
        except OSError as error:
            _logger.info("hocp_mm: the kept kernel is not used (%s), building it anew.", error)
        try:
            content = _build(compiler, kept.parent)
            with replacing_trusted(kept) as file:
                file.write(content + _seal(content))
        except OSError as error:  # a folder that can only be read, a full disk
            _logger.info("hocp_mm: the kernel cannot be kept (%s), it is built for this process only.", error)
    try:
        return _load(content or _build(compiler))
    except OSError as error:
        raise NativeUnavailableError(f"the build cannot be loaded ({error})") from error


def _kept_file(name: str) -> Path | None:
    """Return where the library is kept, or None, with a word why, where there is no place for it."""
    try:
        return trusted_folder(cache_folder(), make=True) / name
    except OSError as error:  # a folder of others, a read-only home, or none
        level = logging.WARNING if isinstance(error, UntrustedError) else logging.INFO
        text = "hocp_mm: the kernel is built for this process only, its cache cannot be used (%s)."
        _logger.log(level, text + " HOCP_MM_CACHE can name another folder.", error)
        return None


def _read(kept: Path) -> bytes:
    """Return a kept library, whole.

    Raises:
        OSError: If there is none, or one that is cut, damaged, or not ours alone.
    """
    with open_trusted(kept, _LIMIT_BYTES) as file:
        raw = file.read(_LIMIT_BYTES)
    content, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if seal != _seal(content):
        raise OSError(f"{kept}: must end in the hash of its {len(content)} bytes, and does not")
    return content


def _seal(content: bytes) -> bytes:
    """Return what follows a library in its file, where the loader does not look."""
    return hashlib.sha256(content).digest()


def _load(content: bytes) -> ctypes.CDLL:
    """Load a library from memory, or from a file that only this process knows."""
    if hasattr(os, "memfd_create"):  # not in every build of Python
        try:
            return _load_from_memory(content)
        except OSError as error:  # no /proc, or a system that runs nothing from memory (vm.memfd_noexec = 2)
            _logger.debug("hocp_mm: the kernel cannot be loaded from memory (%s), loading it from a file.", error)
    with _own_folder() as folder:
        file = folder / "cp_conv.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


def _load_from_memory(content: bytes) -> ctypes.CDLL:
    handle = os.memfd_create("hocp_mm")
    try:
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(content)
        # Stays open: the loader tells libraries by their names, and another file of this number would count as loaded.
        return ctypes.CDLL(f"/proc/self/fd/{handle}")
    except OSError:
        os.close(handle)
        raise


@contextlib.contextmanager
def _own_folder(parent: Path | None = None) -> Iterator[Path]:
    """Give a folder for this process, gone afterwards; by default where temporary files lie (``TMPDIR``).

    Raises:
        UntrustedError: If others could exchange it.
    """
    with tempfile.TemporaryDirectory(prefix="build-", dir=parent) as folder:
        yield trusted_folder(Path(folder))


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


def _build(compiler: str, folder: Path | None = None) -> bytes:
    """Compile in a folder made for it below ``folder``, the compiler's temporary files included."""
    with _own_folder(folder) as own:
        fresh = own / "cp_conv.so"
        command = [compiler, *FLAGS, "-o", str(fresh), str(SOURCES / "cp_conv.cpp")]
        result = _run(command, TMPDIR=str(own))
        if result.returncode:
            first = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
            raise NativeUnavailableError(f"the build failed ({first}): {' '.join(command)}")
        return fresh.read_bytes()


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_TIMEOUT_S,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired as error:
        raise NativeUnavailableError(f"no answer for {_TIMEOUT_S} s from: {' '.join(command)}") from error
    except OSError as error:
        raise NativeUnavailableError(f"the compiler cannot be run ({error})") from error
