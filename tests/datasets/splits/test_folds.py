"""Folds keep people together, test every clip once, are balanced and reproducible, and refuse leaks."""

import hashlib
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hocp_mm.datasets.splits import check_folds, count_folds, make_folds, read_fold, write_fold_files
from hocp_mm.errors import DataError, MissingDataError

SIZES = st.lists(st.integers(1, 12), min_size=7, max_size=40)


def _set(sizes):
    keys = [f"{group:03d}_{clip:02d}" for group, size in enumerate(sizes) for clip in range(size)]
    return keys, [key[:3] for key in keys]


def _folds(sizes, num_folds, seed):
    """Return folds; without an example where one person has so many clips that nobody is left for training."""
    try:
        return make_folds(*_set(sizes), num_folds, seed)
    except ValueError as error:
        assume("train and val need a group each" not in str(error))
        raise


@given(sizes=SIZES, num_folds=st.integers(2, 5), seed=st.integers(0, 9))
def test_no_person_is_in_two_parts_and_every_clip_is_tested_once(sizes, num_folds, seed):
    keys, _ = _set(sizes)
    folds = _folds(sizes, num_folds, seed)
    check_folds(folds, lambda key: key[:3])
    assert Counter(key for parts in folds for key in parts["test"]) == Counter(keys)
    for parts in folds:
        assert sorted(key for part in parts.values() for key in part) == keys
        people = {part: {key[:3] for key in chosen} for part, chosen in parts.items()}
        assert sum(map(len, people.values())) == len(sizes)
        assert all(people.values())


@given(sizes=SIZES, seed=st.integers(0, 9))
def test_test_parts_differ_by_no_more_clips_than_the_largest_group_has(sizes, seed):
    counts = [len(parts["test"]) for parts in _folds(sizes, 5, seed)]
    assert max(counts) - min(counts) <= max(sizes)


def test_many_people_make_70_10_20():
    folds = make_folds(*_set([3] * 200), seed=1)
    assert [[len(keys) for keys in parts.values()] for parts in folds] == [[420, 60, 120]] * 5


def test_a_person_of_many_clips_does_not_make_most_of_the_training_part_validation():
    sizes = [30, *[1] * 30]
    for seed in range(12):
        for parts in make_folds(*_set(sizes), 5, seed):
            assert abs(len(parts["val"]) - 0.125 * (len(parts["val"]) + len(parts["train"]))) <= 1
    # Where everybody is more than twice the share, the one with the fewest clips comes nearest.
    for parts in make_folds(*_set([9, 9, 4, 9, 9]), 2, 3):
        sizes = sorted(Counter(key[:3] for key in [*parts["train"], *parts["val"]]).values())
        assert len(parts["val"]) == sizes[0]


def test_a_seed_makes_the_same_folds_everywhere():
    """The digits are those of this code: another Python, system or order of hashing must not move a person."""
    folds = make_folds([f"{clip:03d}" for clip in range(40)], [f"actor {clip % 13}" for clip in range(40)], 5, 7)
    text = ";".join(",".join(parts["test"]) + "/" + ",".join(parts["val"]) for parts in folds)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "565cc76cd57dc5d9"


def test_the_seed_decides_not_the_order_of_the_keys():
    keys, groups = _set([2, 3, 1, 4, 2, 2, 5, 1, 3, 2])
    first = make_folds(keys, groups, seed=1)
    assert make_folds(keys[::-1], groups[::-1], seed=1) == first
    assert make_folds(keys, groups, seed=2) != first
    vals = [tuple(parts["val"]) for parts in first]
    assert len(set(vals)) > 1  # not one person for all folds


BAD_CALLS = {
    "lengths": ({"keys": ["a"], "groups": []}, "one group per key, got 1 keys and 0 groups"),
    "repeats": ({"keys": ["a", "a"], "groups": ["x", "y"]}, "keys must be different"),
    "one fold": ({"keys": ["a"], "groups": ["x"], "num_folds": 1}, r"num_folds must be 2 or more .* got 1 and 0\.125"),
    "no val": ({"keys": ["a"], "groups": ["x"], "val_share": 0.0}, r"val_share in \(0, 1\), got 5 and 0\.0"),
    "few groups": ({"keys": ["a", "b"], "groups": ["x", "y"]}, "5 folds need as many groups, got 2"),
    "one group left": (
        {"keys": ["a", "b", "c"], "groups": ["x", "y", "z"], "num_folds": 2},
        r"train and val need a group each, but fold \d leaves them 1 of 3",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_folds_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        make_folds(**call)


def _parts(train, val, test):
    return {"train": train, "val": val, "test": test}


BAD_FOLDS = {
    "person in two parts": (
        [_parts(["a1"], ["b1"], ["a2"])],
        "fold 0: split: no group may be in two parts, but group 'a' is in train and test",
    ),
    "clip in two parts": ([_parts(["a1"], ["a1"], ["c1"])], "fold 0: split: no video may be in two parts"),
    "tested twice": (
        [_parts(["a1"], ["b1"], ["c1"]), _parts(["a1"], ["b1"], ["c1"])],
        "a clip is tested once, but 'c1' is in the test of 0 and 1",
    ),
    "never tested": ([_parts(["a1"], ["b1"], ["c1"])], "every clip must be tested, but 'a1' is in no test part"),
    "missing in one": (
        [_parts(["a1"], ["b1"], ["c1"]), _parts(["c1"], [], ["a1"])],
        "fold 1: must hold every clip, but 'b1' is in another fold only",
    ),
}


@pytest.mark.parametrize(("folds", "message"), BAD_FOLDS.values(), ids=BAD_FOLDS)
def test_each_way_to_spoil_folds_is_named(folds, message):
    with pytest.raises(DataError, match=message):
        check_folds(folds, lambda key: key[0])


def test_files_read_back_with_seed_checksum_and_grouping(tmp_path):
    folds = make_folds(*_set([2] * 8), seed=7)
    assert write_fold_files(tmp_path, folds, seed=7, grouped_by="actor") == tmp_path / "folds"
    assert count_folds(tmp_path) == 5
    assert [read_fold(tmp_path, fold) for fold in range(5)] == folds
    header = (tmp_path / "folds/fold_3/val.txt").read_text().splitlines()[0]
    assert header.startswith("# seed=7 sha256=")
    assert header.endswith(" grouped by actor")


def test_an_edited_fold_file_is_noticed(tmp_path):
    write_fold_files(tmp_path, make_folds(*_set([2] * 8)), seed=0, grouped_by="actor")
    file = tmp_path / "folds/fold_2/test.txt"
    file.write_text(file.read_text() + "99_00\n")
    with pytest.raises(DataError, match=r"fold_2.test\.txt: the keys differ from the sha256"):
        read_fold(tmp_path, 2)


def test_a_missing_fold_says_which_there_are(tmp_path):
    with pytest.raises(MissingDataError, match=r"fold_0: no such fold \(.*folds holds no folds\)"):
        read_fold(tmp_path, 0)
    write_fold_files(tmp_path, make_folds(*_set([2] * 8)), seed=0, grouped_by="actor")
    with pytest.raises(MissingDataError, match=r"fold_5: no such fold \(.*folds holds 5 folds, 0 to 4\)"):
        read_fold(tmp_path, 5)
    (tmp_path / "folds/fold_1/val.txt").unlink()
    with pytest.raises(MissingDataError, match=r"fold_1.val\.txt: no such split file"):
        read_fold(tmp_path, 1)
