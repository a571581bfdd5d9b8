"""Building the compiled kernel, and going on without it."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hocp_mm.functional.native import build
from tests.material.processes import run_python

ANSWER = (
    "import logging; logging.basicConfig(level=logging.INFO)\n"
    "from hocp_mm.functional.native import native_available\n"
    "import torch\n"
    "from hocp_mm.layers import HOCPConv3d\n"
    "y = HOCPConv3d(8, 8, 3, padding=1, implementation='fused')(torch.randn(1, 8, 2, 4, 4))\n"
    "print(native_available(), tuple(y.shape))"
)
NOBODY = 65534
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


def test_a_compiler_that_cannot_be_run_is_reported(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_bytes(b"\x7fELF no program")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.NativeUnavailableError, match="the compiler cannot be run"):
        build.load_library()


@pytest.fixture(scope="module")
def library() -> bytes:
    """Return the compiled kernel."""
    return build._build(compiler="g++")


@pytest.fixture
def builds(library, monkeypatch) -> list[Path | None]:
    """Answer every build with the one that is there, and note where it was asked for."""
    places: list[Path | None] = []
    monkeypatch.setattr(build, "_build", lambda compiler, folder=None: places.append(folder) or library)
    return places


@pytest.fixture
def kept(builds, tmp_path, monkeypatch) -> Path:
    """Return the file that a good folder keeps."""
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache/kept"))
    build.load_library()
    (file,) = (tmp_path / "cache/kept").iterdir()
    assert builds == [file.parent]
    builds.clear()
    return file


def loaded_bytes(library: ctypes.CDLL) -> bytes:
    return Path(library._name).read_bytes()


@needs_compiler
def test_a_build_is_kept_for_this_user_alone(kept, library, builds):
    assert loaded_bytes(build.load_library()) == library
    assert builds == []
    assert kept.read_bytes()[: len(library)] == library
    assert [oct(path.stat().st_mode & 0o7777) for path in (kept, kept.parent, kept.parent.parent)] == [
        "0o600",
        "0o700",
        "0o700",
    ]


def _plant(kept: Path) -> bytes:
    """Put a library of an attacker there, as this package would have kept it."""
    evil = kept.read_bytes()[: -build._SEAL_BYTES] + b"evil"
    kept.write_bytes(evil + build._seal(evil))
    return evil


def _open(bits: int, folder: str = "kept") -> Callable[[Path], None]:
    def plant(kept: Path) -> None:
        _plant(kept)
        (kept.parent if folder == "kept" else kept.parent.parent).chmod(bits)

    return plant


def _give(folder: str) -> Callable[[Path], None]:
    def plant(kept: Path) -> None:
        _plant(kept)
        os.chown({"kept": kept.parent, "cache": kept.parent.parent}[folder], NOBODY, NOBODY)

    return plant


def _link_folder(kept: Path) -> None:
    _plant(kept)
    elsewhere = kept.parent.parent.with_name("elsewhere")
    elsewhere.mkdir()
    kept.parent.rename(elsewhere / "kept")
    elsewhere.chmod(0o777)
    kept.parent.symlink_to(elsewhere / "kept")


FOLDERS_OF_OTHERS = {
    "777": _open(0o777),
    "1777": _open(0o1777),
    "775": _open(0o775),
    "below 777": _open(0o777, "cache"),
    "below 775": _open(0o775, "cache"),
    "a link into 777": _link_folder,
    "another user's": _give("kept"),
    "below another user's": _give("cache"),
}


@needs_compiler
@pytest.mark.parametrize("case", FOLDERS_OF_OTHERS)
def test_a_library_planted_where_others_can_write_is_not_loaded(kept, library, builds, caplog, case):
    if "user's" in case and os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    FOLDERS_OF_OTHERS[case](kept)
    before = kept.read_bytes()
    assert loaded_bytes(build.load_library()) == library
    assert builds == [None]
    assert kept.read_bytes() == before
    (record,) = [record for record in caplog.records if record.name == "hocp_mm"]
    assert record.levelname == "WARNING"
    assert "built for this process only" in record.message
    assert "must belong to user" in record.message or "group and others must not be able to write" in record.message


def _give_file(kept: Path) -> None:
    _plant(kept)
    os.chown(kept, NOBODY, NOBODY)


def _open_file(kept: Path) -> None:
    _plant(kept)
    kept.chmod(0o666)


def _link_file(kept: Path) -> None:
    _plant(kept)
    kept.rename(kept.with_name("evil"))
    kept.symlink_to(kept.with_name("evil"))


def _pipe(kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept)


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "open to others": _open_file,
    "a link": _link_file,
    "a named pipe": _pipe,
    "very large": lambda kept: os.truncate(kept, 2**40),
    "of another package": lambda kept: kept.write_bytes(b"not a library"),
    "empty": lambda kept: kept.write_bytes(b""),
    "of an older version, without a hash": lambda kept: kept.write_bytes(kept.read_bytes()[: -build._SEAL_BYTES]),
    "of another user": _give_file,
}


@needs_compiler
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_kept_library_is_built_anew_that_is(kept, library, builds, case):
    if "another user" in case and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    whole = kept.read_bytes()
    BAD_FILES[case](kept)
    assert loaded_bytes(build.load_library()) == library
    assert builds == [kept.parent]
    assert not kept.is_symlink()
    assert kept.read_bytes() == whole
    build.load_library()
    assert builds == [kept.parent]


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="built on Linux only")
def test_a_library_that_was_cut_or_damaged_anywhere_is_built_anew_and_runs(kept, library, tmp_path):
    (tmp_path / "library").write_bytes(library)
    answer = run_python(
        f"""
        import os, random
        from pathlib import Path
        from hocp_mm.functional.native import build
        kept, library, builds = Path({str(kept)!r}), Path({str(tmp_path / "library")!r}).read_bytes(), []
        os.environ["HOCP_MM_CACHE"] = str(kept.parent)
        build._fingerprint = lambda compiler: kept.stem.partition("-")[2]
        build._build = lambda compiler, folder=None: builds.append(folder) or library
        whole, places = kept.read_bytes(), random.Random(0)
        ends = {{0, 1, 63, 64, 4095, 4096, 4097, *range(0, len(whole), 8192), len(library) - 1, len(library)}}
        ends |= {{len(library) + 1, len(whole) - 1, *places.sample(range(len(whole)), 8)}}
        for end in sorted(ends):
            kept.write_bytes(whole[:end])
            assert build.load_library().hocp_padded(3) and kept.read_bytes() == whole, end
        for place in [0, 4, 40, len(library), len(whole) - 1, *places.sample(range(len(whole)), 32)]:
            kept.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << places.randrange(8))]) + whole[place + 1 :])
            assert build.load_library().hocp_padded(3) and kept.read_bytes() == whole, place
        kept.write_bytes(whole + b"more")
        assert build.load_library().hocp_padded(3) and kept.read_bytes() == whole
        print(len(builds) == len(ends) + 38)
        """
    )
    assert answer == "True"


@needs_compiler
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by another file"])
def test_a_library_that_is_exchanged_after_it_was_checked_is_not_loaded(kept, library, builds, monkeypatch, in_place):
    read = build._read

    def exchange(path: Path) -> bytes:
        content = read(path)
        if not in_place:
            path.unlink()
            path.write_bytes(content + build._seal(content))
        _plant(path)
        return content

    monkeypatch.setattr(build, "_read", exchange)
    assert loaded_bytes(build.load_library()) == library
    assert builds == []


@needs_compiler
@pytest.mark.parametrize("reason", ["none", "forbidden"])
def test_without_files_in_memory_the_library_is_loaded_from_a_private_file(kept, builds, monkeypatch, reason):
    def forbid(name: str) -> int:
        raise PermissionError(13, "vm.memfd_noexec")

    if reason == "none":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", forbid)
    loaded = build.load_library()
    assert loaded.hocp_padded(3)
    assert not Path(loaded._name).exists()  # gone with its folder
    assert builds == []


@needs_compiler
def test_a_temporary_folder_that_others_can_exchange_is_not_built_in(tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "shared"))
    with pytest.raises(build.NativeUnavailableError, match="shared: group and others must not be able to write"):
        build.load_library()
    assert not list((tmp_path / "shared").iterdir())


@needs_compiler
def test_many_at_once_build_the_same(library, builds, tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache/kept"))
    with ThreadPoolExecutor(8) as pool:
        libraries = list(pool.map(lambda _: build.load_library(), range(16)))
    assert {loaded_bytes(each) for each in libraries} == {library}
    (kept,) = (tmp_path / "cache/kept").iterdir()
    assert build._read(kept) == library


@needs_compiler
def test_a_folder_that_can_only_be_read_serves_as_well(kept, library, builds, monkeypatch):
    def refuse(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(build, "replacing_trusted", refuse)
    assert loaded_bytes(build.load_library()) == library
    assert builds == []
    kept.write_bytes(b"cut")
    assert loaded_bytes(build.load_library()) == library
    assert builds == [kept.parent]


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
