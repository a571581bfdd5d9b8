"""A folder that says that it is a synthetic set is a stranger's until its manifest is read."""

import json
import shutil
from pathlib import Path

import pytest

from hocp_mm.errors import DataError
from hocp_mm.synthetic.staging import MANIFEST, write_staged
from tests.material.raw_sets import tree


def write(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a/1.txt").write_text("one")
    (folder / "list.txt").write_text("1")


def manifest(seed: int) -> str:
    return json.dumps({"layout": "none", "seed": seed, "shares": [1, 2]}, indent=2) + "\n"


@pytest.mark.parametrize("content", [b"\xff\xff", b"{}" + b" " * (1 << 21), b"{}", b"[]", b"null"])
def test_a_manifest_of_another_kind_is_told_in_one_line(content, tmp_path):
    (tmp_path / MANIFEST).write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"other numbers|must have at most|not readable|is not replaced"):
            write_staged(tmp_path, manifest(0), lambda folder: pytest.fail("written"), overwrite)
    assert (tmp_path / MANIFEST).read_bytes() == content


def added(root: Path) -> None:
    (root / "mine.txt").write_text("mine")


def added_below(root: Path) -> None:
    (root / "a/b").mkdir()
    (root / "a/b/mine.txt").write_text("mine")


def hidden(root: Path) -> None:
    (root / ".git").mkdir()
    (root / ".git/HEAD").write_text("mine")


def linked(root: Path) -> None:
    (root / "elsewhere").symlink_to("/")


def changed(root: Path) -> None:
    (root / "list.txt").write_text("1\n2\n")


def removed(root: Path) -> None:
    (root / "list.txt").unlink()


def of_an_earlier_version(root: Path) -> None:
    (root / MANIFEST).write_text(manifest(0))


def claimed(root: Path) -> None:
    """By the manifest of another set, copied into a folder of the user."""
    shutil.rmtree(root / "a")
    (root / "list.txt").rename(root / "thesis.txt")


SPOILT = [added, added_below, hidden, linked, changed, removed, of_an_earlier_version, claimed]


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("late", [False, True], ids=["before", "while the new one is written"])
def test_a_set_with_files_of_somebody_is_not_replaced(tmp_path, spoil, late):
    root = tmp_path / "set"
    assert write_staged(root, manifest(0), write, overwrite=False)
    if not late:
        spoil(root)
    states = [tree(root)]

    def write_late(folder: Path) -> None:
        assert late
        spoil(root)
        states.append(tree(root))
        write(folder)

    with pytest.raises(DataError, match=r"is not replaced; delete it, or name another folder\.$"):
        write_staged(root, manifest(1), write_late, overwrite=True)
    assert tree(root) == states[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert not write_staged(root, manifest(0), write, overwrite=False)  # as before: the same numbers


def test_an_empty_folder_that_somebody_fills_meanwhile_is_not_replaced(tmp_path):
    root = tmp_path / "set"
    root.mkdir()

    def write_late(folder: Path) -> None:
        (root / "mine.txt").write_text("mine")
        write(folder)

    with pytest.raises(DataError, match="is not replaced"):
        write_staged(root, manifest(0), write_late, overwrite=False)
    assert tree(tmp_path) == {"set/mine.txt": b"mine"}


def test_a_set_as_it_was_written_is_replaced_on_request(tmp_path):
    for seed in (0, 1):
        assert write_staged(tmp_path / "set", manifest(seed), write, overwrite=True)
    assert json.loads((tmp_path / "set" / MANIFEST).read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
