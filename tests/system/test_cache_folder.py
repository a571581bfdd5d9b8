"""Folders and files are used only if nobody else can have written them."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hocp_mm.system import cache_folder
from hocp_mm.system.cache_folder import UntrustedError, open_trusted, replacing_trusted, trusted_folder

NOBODY = 65534
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="no owners and modes here")


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_made_for_the_user_alone(tmp_path, umask):
    made = trusted_folder(tmp_path / "cache/hocp_mm/kept", make=True)
    assert made == tmp_path / "cache/hocp_mm/kept"
    assert [mode(folder) for folder in (made, *made.parents[:2])] == [0o700] * 3
    with replacing_trusted(made / "a") as file:
        file.write(b"whole")
    assert mode(made / "a") == 0o600
    with open_trusted(made / "a", 5) as file:
        assert file.read() == b"whole"
    assert trusted_folder(made) == made


def test_a_folder_that_is_not_there_is_told_from_one_that_is_not_trusted(tmp_path):
    with pytest.raises(FileNotFoundError):
        trusted_folder(tmp_path / "none")
    assert not list(tmp_path.iterdir())


OPEN = (0o777, 0o1777, 0o775, 0o1775, 0o2775, 0o757, 0o720, 0o702)


@pytest.mark.parametrize("make", [False, True], ids=["found", "made"])
@pytest.mark.parametrize("bits", OPEN, ids="{:04o}".format)
def test_a_folder_that_others_write_to_is_refused(tmp_path, bits, make):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept").chmod(bits)
    with pytest.raises(UntrustedError, match=rf"kept: group and others must not .* got mode {bits:04o}"):
        trusted_folder(tmp_path / "kept", make)
    assert mode(tmp_path / "kept") == bits


@pytest.mark.parametrize("make", [False, True], ids=["found", "made"])
@pytest.mark.parametrize("bits", OPEN, ids="{:04o}".format)
def test_below_a_folder_that_others_write_to_only_the_sticky_bit_protects(tmp_path, bits, make):
    kept = tmp_path / "shared/a/kept"
    kept.parent.mkdir(parents=True)
    if not make:
        kept.mkdir()
    (tmp_path / "shared").chmod(bits)
    if bits & stat.S_ISVTX:
        assert trusted_folder(kept, make) == kept
    else:
        with pytest.raises(UntrustedError, match=r"shared: group and others must not"):
            trusted_folder(kept, make)
        assert kept.exists() != make


@as_root
@pytest.mark.parametrize("owned", ["kept", "above", "above/kept"])
def test_a_folder_of_another_user_is_refused(tmp_path, owned):
    kept = tmp_path / owned
    kept.mkdir(parents=True)
    os.chown(tmp_path / owned.partition("/")[0], NOBODY, NOBODY)
    for make in (False, True):
        with pytest.raises(UntrustedError, match=rf"must belong to user 0 or root, got user {NOBODY}"):
            trusted_folder(kept, make)


@as_root
def test_a_user_trusts_root_but_not_another_user(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert trusted_folder(tmp_path / "kept") == tmp_path / "kept"
    os.chown(tmp_path / "kept", 1234, 1234)
    assert trusted_folder(tmp_path / "kept") == tmp_path / "kept"
    monkeypatch.setattr(os, "geteuid", lambda: 1235)
    with pytest.raises(UntrustedError, match="must belong to user 1235 or root, got user 1234"):
        trusted_folder(tmp_path / "kept")


def test_links_are_followed_before_anything_is_checked(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open/kept").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "own").mkdir()
    (tmp_path / "good").symlink_to(tmp_path / "own")
    (tmp_path / "bad").symlink_to(tmp_path / "open/kept")
    assert trusted_folder(tmp_path / "good/kept", make=True) == tmp_path / "own/kept"
    with pytest.raises(UntrustedError, match="open: group and others"):
        trusted_folder(tmp_path / "bad/kept", make=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for make in (False, True):
        with pytest.raises(OSError, match="loop"):
            trusted_folder(tmp_path / "loop/kept", make)


def _give_away(path: Path) -> None:
    path.write_bytes(b"content")
    os.chown(path, NOBODY, NOBODY)


def _write_for_all(path: Path) -> None:
    path.write_bytes(b"content")
    path.chmod(0o666)


def _write_for_group(path: Path) -> None:
    path.write_bytes(b"content")
    path.chmod(0o660)


def _link(path: Path) -> None:
    path.with_name("target").write_bytes(b"content")
    path.symlink_to(path.with_name("target"))


PLANTED: dict[str, Callable[[Path], object]] = {
    "open to all": _write_for_all,
    "open to its group": _write_for_group,
    "a link": _link,
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "a named pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "too large": lambda path: path.write_bytes(bytes(101)),
    "very large": lambda path: (path.touch(), os.truncate(path, 2**40)),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_file_is_refused_at_once_that_is(tmp_path, case):
    PLANTED[case](tmp_path / "a")
    with pytest.raises(OSError, match=r"/a\b"):
        open_trusted(tmp_path / "a", 100)


@as_root
def test_a_file_of_another_user_is_refused(tmp_path):
    _give_away(tmp_path / "a")
    with pytest.raises(UntrustedError, match=f"got user {NOBODY}"):
        open_trusted(tmp_path / "a", 100)


def test_where_the_system_knows_no_owners_nothing_is_checked(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "geteuid")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept").chmod(0o777)
    _write_for_all(tmp_path / "kept/a")
    with open_trusted(trusted_folder(tmp_path / "kept") / "a", 100) as file:
        assert file.read() == b"content"


FOLDERS = {
    "named": ({"HOCP_MM_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
    "named in the home": ({"HOCP_MM_CACHE": "~/a", "HOME": "/c"}, "/c/a"),
    "that of the desktop": ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/hocp_mm"),
    "that of the user": ({"HOME": "/c"}, "/c/.cache/hocp_mm"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_the_folder_of_the_package_is(case, monkeypatch):
    for name in ("HOCP_MM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    environment, expected = FOLDERS[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder.cache_folder() == Path(expected)
