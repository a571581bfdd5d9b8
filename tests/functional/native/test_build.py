"""Building the compiled kernel, and going on without it."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from hocp_mm.functional.native import build

ANSWER = (
    "import logging; logging.basicConfig(level=logging.INFO)\n"
    "from hocp_mm.functional.native import native_available\n"
    "import torch\n"
    "from hocp_mm.layers import HOCPConv3d\n"
    "y = HOCPConv3d(8, 8, 3, padding=1, implementation='fused')(torch.randn(1, 8, 2, 4, 4))\n"
    "print(native_available(), tuple(y.shape))"
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def ask(**environment: str) -> tuple[str, str]:
    """Run a layer in a fresh process; returns what it prints and logs."""
    result = subprocess.run(
        [sys.executable, "-c", ANSWER], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return result.stdout.strip(), result.stderr


def test_switched_off_the_layer_runs_on_pytorch_and_says_so():
    answer, log = ask(HOCP_MM_NATIVE="0")
    assert answer == "False (1, 8, 2, 4, 4)"
    assert "no compiled CPU kernel (switched off by HOCP_MM_NATIVE=0)" in log


def test_without_a_compiler_there_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "")
    with pytest.raises(build.NativeUnavailableError, match="no C\\+\\+ compiler found"):
        build.load_library()


@needs_compiler
def test_a_compiler_that_fails_is_reported_and_leaves_nothing_behind(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n[ $# -eq 1 ] && exit 0\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "kept"))
    with pytest.raises(build.NativeUnavailableError, match=r"the build failed \(x\.cpp:1: error: no such thing\)"):
        build.load_library()
    assert list((tmp_path / "kept").iterdir()) == []


@needs_compiler
def test_a_build_is_kept_and_a_damaged_one_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "kept"))
    built = []
    compile_it = build._build
    monkeypatch.setattr(build, "_build", lambda compiler, target: built.append(target) or compile_it(compiler, target))
    build.load_library()
    build.load_library()
    (kept,) = (tmp_path / "kept").iterdir()
    assert built == [kept]
    damaged = tmp_path / "damaged" / kept.name
    damaged.parent.mkdir()
    damaged.write_bytes(b"not a library")
    monkeypatch.setenv("HOCP_MM_CACHE", str(damaged.parent))
    assert build.load_library()._name == str(damaged)
    assert damaged.read_bytes() == kept.read_bytes()


@needs_compiler
def test_a_cache_that_cannot_be_written_means_a_build_for_this_process(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "file" / "kept"))
    assert build.load_library().hocp_padded is not None


@needs_compiler
def test_a_user_without_a_home_gets_a_build_for_the_process(monkeypatch):
    for name in ("HOCP_MM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build.Path, "home", no_home)
    assert build.load_library().hocp_padded is not None


@needs_compiler
def test_where_nothing_may_be_loaded_there_is_a_reason(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError("failed to map segment from shared object")

    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path))
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(build.NativeUnavailableError, match="cannot be loaded"):
        build.load_library()
