"""Splits keep groups together, are reproducible, and refuse leaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocp_mm.datasets.splits import check_folders, check_no_leak, read_split_file, split_by_group, write_split_files
from hocp_mm.errors import DataError, MissingDataError


def _set(num_groups: int, cultures: int = 1):
    """Two videos per group, groups dealt to the cultures in turn."""
    keys = [f"{group:03d}_{side}" for group in range(num_groups) for side in "ab"]
    groups = [key[:3] for key in keys]
    return keys, groups, [f"C{int(group) % cultures}" for group in groups]


@given(num_groups=st.integers(3, 60), seed=st.integers(0, 9), cultures=st.integers(1, 6))
def test_no_group_is_in_two_parts_and_nothing_is_lost(num_groups, seed, cultures):
    keys, groups, strata = _set(num_groups, cultures)
    parts = split_by_group(keys, groups, seed=seed, strata=strata)
    check_no_leak(parts, lambda key: key[:3])
    assert sorted(key for part in parts.values() for key in part) == sorted(keys)
    assert all(parts.values())


def test_ratios_hold_over_all_and_in_every_stratum():
    keys, groups, strata = _set(60, cultures=6)
    parts = split_by_group(keys, groups, seed=3, strata=strata)
    assert {part: len(chosen) // 2 for part, chosen in parts.items()} == {"train": 48, "val": 6, "test": 6}
    for culture in range(6):
        assert sum(int(key[:3]) % 6 == culture for key in parts["train"]) == 16  # 8 of 10 groups, 2 videos each


def test_the_seed_decides_not_the_order_of_the_keys():
    keys, groups, _ = _set(20)
    first = split_by_group(keys, groups, seed=1)
    assert split_by_group(keys[::-1], groups[::-1], seed=1) == first
    assert split_by_group(keys, groups, seed=2) != first


def test_a_share_of_zero_gives_an_empty_part():
    keys, groups, _ = _set(4)
    assert split_by_group(keys, groups, ratios=(1, 0, 1))["val"] == []


BAD_CALLS = {
    "lengths": ({"keys": ["a", "b"], "groups": ["x"]}, "one group and stratum per key, got 2, 1, 2"),
    "repeats": ({"keys": ["a", "a"], "groups": ["x", "x"]}, "keys must be different"),
    "two ratios": ({"keys": ["a"], "groups": ["x"], "ratios": (1, 1)}, r"3 shares of 0 or more, got \(1, 1\)"),
    "negative ratio": ({"keys": ["a"], "groups": ["x"], "ratios": (1, -1, 1)}, "shares of 0 or more"),
    "too few groups": ({"keys": ["a", "b", "c"], "groups": ["x", "x", "y"]}, "3 parts need as many groups, got 2"),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_splits_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        split_by_group(**call)


def test_a_leak_is_named():
    with pytest.raises(DataError, match="no video may be in two parts, but video 'a1' is in train and val"):
        check_no_leak({"train": ["a1"], "val": ["a1"]}, lambda key: key[0])
    with pytest.raises(DataError, match="no group may be in two parts, but group 'a' is in train and test and 1 more"):
        check_no_leak({"train": ["a1", "b1"], "test": ["a2", "b2"]}, lambda key: key[0])


def test_files_read_back_and_record_seed_and_grouping(tmp_path):
    parts = {"train": ["b", "a"], "val": ["c"], "test": []}
    files = write_split_files(tmp_path / "splits", parts, seed=7)
    assert [file.name for file in files] == ["train.txt", "val.txt", "test.txt"]
    assert [read_split_file(file) for file in files[:2]] == [["b", "a"], ["c"]]
    header = files[0].read_text().splitlines()[0]
    assert header.startswith("# seed=7 sha256=")
    assert header.endswith(" grouped by S")
    assert sorted(path.name for path in files[0].parent.iterdir()) == ["test.txt", "train.txt", "val.txt"]
    assert read_split_file(files[2], allow_empty=True) == []


def test_a_plain_list_of_keys_is_a_split_file(tmp_path):
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbf# mine\r\n\r\na\r\nb\r\n")
    assert read_split_file(tmp_path / "mine.txt") == ["a", "b"]


def test_an_edited_file_is_noticed(tmp_path):
    [file] = write_split_files(tmp_path, {"train": ["a", "b"]}, seed=0)
    file.write_text(file.read_text() + "c\n")
    with pytest.raises(DataError, match=r"train\.txt: the keys differ from the sha256 in its first line"):
        read_split_file(file)


BAD_FILES = {
    "empty": (b"# nothing\n", "must name at least one video, got none"),
    "repeat": (b"a\nb\na\n", "may be named once, got 'a' more than once"),
    "binary": (b"\xff\xfe\x00a", "must be UTF-8 text"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_split_files_are_named(tmp_path, content, message):
    (tmp_path / "s.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"s\.txt: .*{message}"):
        read_split_file(tmp_path / "s.txt")


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"s\.txt: no such split file"):
        read_split_file(tmp_path / "s.txt")


def test_a_split_of_many_repeated_names_is_refused_soon(tmp_path):
    """Counting each of them anew would take the square: hours."""
    (tmp_path / "train.txt").write_text("1\n" * 300_000)
    with pytest.raises(DataError, match=r"train\.txt: a video may be named once, got '1' more than once"):
        read_split_file(tmp_path / "train.txt")


def test_a_split_of_another_set_is_refused_before_each_of_its_names_is(tmp_path):
    (tmp_path / "a").mkdir()
    check_folders([f"key{n}" for n in range(1010)], tmp_path, "train.txt")
    with pytest.raises(DataError, match=r"train\.txt: names 300000 videos, but .* holds 1 names"):
        check_folders([f"key{n}" for n in range(300_000)], tmp_path, "train.txt")
