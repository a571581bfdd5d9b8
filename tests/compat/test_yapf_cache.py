"""A Runner starts whatever another process has left in YAPF's cache."""

import subprocess
import sys

import pytest

from tests.material.processes import run_python

LAY_OUT = "from mmengine import Config; print(Config(dict(answer=42)).pretty_text)"


def _run(code, cache):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"XDG_CACHE_HOME": str(cache), "PATH": ""},
    )


@pytest.fixture
def cut_short(tmp_path):
    """A cache whose files are those of YAPF, with nothing in them yet."""
    assert _run(LAY_OUT, tmp_path).returncode == 0
    kept = list(tmp_path.rglob("*.pickle"))
    assert len(kept) == 2
    for file in kept:
        file.write_bytes(b"")
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME names the cache on Linux alone")
def test_half_a_grammar_ends_mmengine_and_not_ours(cut_short):
    broken = _run(LAY_OUT, cut_short)
    assert "EOFError" in broken.stderr, "the fault is gone: so may the cure"
    cured = _run(f"from hocp_mm.compat import apply; apply(); apply(); {LAY_OUT}", cut_short)
    assert cured.returncode == 0, cured.stderr
    assert cured.stdout.strip() == "answer = 42"
    assert all(file.read_bytes() == b"" for file in cut_short.rglob("*.pickle")), "the user's cache is not ours"


def test_where_yapf_is_in_use_nothing_is_done():
    code = """
        import platformdirs, yapf
        where = platformdirs.user_cache_dir
        from hocp_mm.compat.yapf_cache import import_yapf_without_cache
        assert import_yapf_without_cache() is None
        del __import__("sys").modules["yapf"]
        assert import_yapf_without_cache().startswith("yapf: ")
        assert platformdirs.user_cache_dir is where
    """
    run_python(code)
