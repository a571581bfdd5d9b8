"""Building the compiled kernel, and going on without it."""

import os
import subprocess
import sys

import pytest

from hocp_mm.functional.native import build, native_available

ANSWER = (
    "import logging; logging.basicConfig(level=logging.INFO)\n"
    "from hocp_mm.functional.native import native_available\n"
    "import torch\n"
    "from hocp_mm.layers import HOCPConv3d\n"
    "y = HOCPConv3d(8, 8, 3, padding=1, implementation='fused')(torch.randn(1, 8, 2, 4, 4))\n"
    "print(native_available(), tuple(y.shape))"
)
needs_compiler = pytest.mark.skipif(not native_available(), reason="no C++ compiler with OpenMP on this machine")


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


def test_without_a_compiler_the_layer_runs_on_pytorch_and_says_so(tmp_path):
    answer, log = ask(PATH=str(tmp_path), CXX="", HOCP_MM_CACHE=str(tmp_path / "kept"))
    assert answer == "False (1, 8, 2, 4, 4)"
    assert "no C++ compiler found" in log


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
def test_the_second_process_takes_the_build_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path))
    build.load_library()
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    assert ask(HOCP_MM_CACHE=str(tmp_path))[0] == "True (1, 8, 2, 4, 4)"
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [before]


@needs_compiler
def test_a_damaged_or_unwritable_cache_is_replaced_for_the_process(tmp_path):
    folder = tmp_path / "kept"
    ask(HOCP_MM_CACHE=str(folder))
    (kept,) = folder.iterdir()
    kept.write_bytes(b"not a library")
    answer, log = ask(HOCP_MM_CACHE=str(folder))
    assert answer == "True (1, 8, 2, 4, 4)"
    assert "is not usable" in log
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    answer, log = ask(HOCP_MM_CACHE=str(blocked / "kept"))
    assert answer == "True (1, 8, 2, 4, 4)"
