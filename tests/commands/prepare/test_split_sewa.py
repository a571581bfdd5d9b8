"""The command that writes split files."""

from importlib import import_module

import pytest

from hocp_mm.datasets.splits import read_split_file
from hocp_mm.errors import DataError, MissingDataError
from tests.material.processes import ROOT

TOOL = ROOT / "tools/prepare/split_sewa.py"


@pytest.fixture(scope="module")
def main():
    return import_module("hocp_mm.commands.prepare.split_sewa").main


def _root(tmp_path, talks=20):
    """Two segments per conversation, one of each partner; two cultures."""
    for talk in range(1, talks + 1):
        for person in (2 * talk - 1, 2 * talk):
            (tmp_path / f"SVH_C{1 + talk % 2}_S{talk:03d}_P{person:03d}_VC1_000000_000100").mkdir()
    return tmp_path


def test_conversations_stay_together_and_the_table_counts_them(main, tmp_path, capsys):
    main([str(_root(tmp_path)), "--seed", "3"])
    parts = {part: read_split_file(tmp_path / f"splits/{part}.txt") for part in ("train", "val", "test")}
    assert {part: len(keys) for part, keys in parts.items()} == {"train": 32, "val": 4, "test": 4}
    talks = [{key.split("_")[2] for key in keys} for keys in parts.values()]
    assert sum(map(len, talks)) == len(set.union(*talks)) == 20
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["part", "videos", "talks", "C1", "C2"]
    assert lines[1].split() == ["train", "32", "16", "8", "8"]
    assert "seed=3" in (tmp_path / "splits/train.txt").read_text()


def test_ratios_are_an_option(main, tmp_path):
    main([str(_root(tmp_path)), "--ratios", "2", "1", "1"])
    assert len(read_split_file(tmp_path / "splits/train.txt")) == 20


def test_another_split_is_replaced_only_by_force(main, tmp_path):
    root = str(_root(tmp_path))
    main([root])
    main([root])  # the same split again
    with pytest.raises(DataError, match=r"train\.txt: holds another split, .* pass --force"):
        main([root, "--seed", "1"])
    main([root, "--seed", "1", "--force"])
    assert "seed=1" in (tmp_path / "splits/train.txt").read_text()


@pytest.mark.parametrize("change", ["# mine\n{}", "{}# mine\n", "{}\n"])
def test_the_same_split_with_notes_of_the_user_is_replaced_only_by_force(main, tmp_path, change):
    main([str(_root(tmp_path))])
    file = tmp_path / "splits/val.txt"
    written = file.read_text()
    file.write_text(change.format(written))
    with pytest.raises(DataError, match=r"val\.txt: holds another split, .* or was written by hand; pass --force"):
        main([str(tmp_path)])
    assert file.read_text() == change.format(written)
    main([str(tmp_path), "--force"])
    assert file.read_text() == written


def test_a_folder_without_segments_is_named(main, tmp_path):
    with pytest.raises(DataError, match="must hold folders named like"):
        main([str(tmp_path)])
    with pytest.raises(MissingDataError, match="no such folder"):
        main([str(tmp_path / "none")])
    with pytest.raises(DataError, match="3 parts need as many groups, got 2"):
        main([str(_root(tmp_path, talks=2))])
