"""Cross-validation folds that keep people together, as files with seed and checksum.

    <root>/folds/fold_0/{train,val,test}.txt … fold_4/…

Every clip is in the test part of exactly one fold; train and val share no person with it nor with each other.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hocp_mm.datasets.splits.splits import PARTS, check_no_leak, read_split_file, write_split_files
from hocp_mm.errors import DataError, MissingDataError

Parts = dict[str, list[str]]


def make_folds(
    keys: Sequence[str], groups: Sequence[str], num_folds: int = 5, seed: int = 0, val_share: float = 0.125
) -> list[Parts]:
    """Divide clips into folds by whole groups, balanced in clips.

    The largest group goes first, each to the fold with the fewest clips so far (ties by chance), so two test parts
    differ by no more clips than the largest group has. Of the groups left for training, some are drawn for validation.

    Args:
        keys: Names of the clips.
        groups: Group of each clip, e.g. the actor.
        num_folds: Number of folds, 2 or more.
        seed: Seed of the draws; the result depends on it and on the sets of names, not on their order.
        val_share: Share of the clips outside of the test part that validation gets, as near as whole groups allow
            and at least one group; 0.125 makes 70 : 10 : 20 of five folds.

    Returns:
        Sorted keys by part, for each fold.

    Raises:
        ValueError: If lengths differ, keys repeat, a number is out of range, or there are too few groups: one for
            the test part of each fold, and two outside of it.
    """
    if len(keys) != len(groups):
        raise ValueError(f"make_folds: one group per key, got {len(keys)} keys and {len(groups)} groups.")
    if len(set(keys)) != len(keys):
        raise ValueError("make_folds: keys must be different, got repeats.")
    if num_folds < 2 or not 0 < val_share < 1:
        raise ValueError(
            f"make_folds: num_folds must be 2 or more and val_share in (0, 1), got {num_folds} and {val_share}."
        )
    group_of = dict(zip(keys, groups, strict=True))
    sizes = {group: list(group_of.values()).count(group) for group in sorted(set(groups))}
    if len(sizes) < num_folds:
        raise ValueError(f"make_folds: {num_folds} folds need as many groups, got {len(sizes)}.")
    fold_of = _deal(sizes, num_folds, seed)
    folds = []
    for fold in range(num_folds):
        rest = {group: size for group, size in sizes.items() if fold_of[group] != fold}
        if len(rest) < 2:
            raise ValueError(
                f"make_folds: train and val need a group each, but fold {fold} leaves them {len(rest)} of {len(sizes)}."
            )
        val = _draw(rest, val_share, random.Random(f"{seed}/{fold}"))
        part_of = {group: "test" if fold_of[group] == fold else "val" if group in val else "train" for group in sizes}
        folds.append({part: sorted(key for key in keys if part_of[group_of[key]] == part) for part in PARTS})
    return folds


def check_folds(folds: Sequence[Mapping[str, Sequence[str]]], group_of: Callable[[str], str]) -> None:
    """Refuse folds that leak, leave a clip out or test it twice.

    Args:
        folds: Keys by part, for each fold.
        group_of: Gives the group of a key.

    Raises:
        DataError: Names the fold and the first clip or group.
    """
    everything = {key for parts in folds for keys in parts.values() for key in keys}
    tested: dict[str, int] = {}
    for fold, parts in enumerate(folds):
        check_no_leak(parts, group_of, f"fold {fold}")
        if missing := sorted(everything.difference(*parts.values())):
            raise DataError(f"fold {fold}: must hold every clip, but {missing[0]!r} is in another fold only.")
        for key in parts["test"]:
            if key in tested:
                raise DataError(
                    f"folds: a clip is tested once, but {key!r} is in the test of {tested[key]} and {fold}."
                )
            tested[key] = fold
    if untested := sorted(everything - set(tested)):
        raise DataError(f"folds: every clip must be tested, but {untested[0]!r} is in no test part.")


def write_fold_files(
    root: str | Path, folds: Sequence[Mapping[str, Sequence[str]]], seed: int, grouped_by: str
) -> Path:
    """Write ``<root>/folds/fold_<k>/{train,val,test}.txt``, each with seed and checksum in its first line.

    Args:
        root: Folder of the set.
        folds: Keys by part, for each fold.
        seed: Seed that made them, for the record.
        grouped_by: What was kept together, for the record.

    Returns:
        The folder ``<root>/folds``.
    """
    for fold, parts in enumerate(folds):
        write_split_files(_folder(root, fold), parts, seed, grouped_by)
    return Path(root) / "folds"


def read_fold(root: str | Path, fold: int) -> Parts:
    """Read the three parts of one fold.

    Args:
        root: Folder of the set.
        fold: Number of the fold, from 0.

    Returns:
        Keys by part.

    Raises:
        MissingDataError: If there is no such fold, or a part of it is missing; says which there are.
        DataError: If a file breaks a rule of `read_split_file`.
    """
    folder = _folder(root, fold)
    if not folder.is_dir():
        known = count_folds(root)
        has = f"{folder.parent} holds {known} folds, 0 to {known - 1}" if known else f"{folder.parent} holds no folds"
        raise MissingDataError(f"{folder}: no such fold ({has}).")
    return {part: read_split_file(folder / f"{part}.txt") for part in PARTS}


def count_folds(root: str | Path) -> int:
    """Return how many folds, numbered from 0 without a gap, are written below ``root``."""
    count = 0
    while _folder(root, count).is_dir():
        count += 1
    return count


def _folder(root: str | Path, fold: int) -> Path:
    return Path(root) / "folds" / f"fold_{fold}"


def _deal(sizes: Mapping[str, int], num_folds: int, seed: int) -> dict[str, int]:
    """Give each group its test fold: largest first, to the fold with the fewest clips."""
    shuffler = random.Random(seed)
    order = sorted(sizes)
    shuffler.shuffle(order)
    order.sort(key=lambda group: -sizes[group])  # stable: equal sizes stay shuffled
    loads = [0] * num_folds
    fold_of = {}
    for group in order:
        fold = shuffler.choice([index for index, load in enumerate(loads) if load == min(loads)])
        fold_of[group] = fold
        loads[fold] += sizes[group]
    return fold_of


def _draw(sizes: Mapping[str, int], share: float, shuffler: random.Random) -> set[str]:
    """Draw groups until their clips are as near to the share as the order of the draw allows; never all of them."""
    wanted = share * sum(sizes.values())
    order = sorted(sizes)
    shuffler.shuffle(order)
    chosen: set[str] = set()
    count = 0
    for group in order:
        if len(chosen) < len(order) - 1 and abs(count + sizes[group] - wanted) < abs(count - wanted):
            chosen.add(group)
            count += sizes[group]
    # Every group alone may be more than twice the share; the smallest then is the nearest.
    return chosen or {min(order, key=lambda group: sizes[group])}
