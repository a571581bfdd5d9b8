"""Splits that keep people together, written with their seed and a checksum.

A model that has seen a person in training scores better on another clip of the same person, so parts are
made of whole groups: the conversation in SEWA (both partners share the talk), the actor in AFEW-VA.
"""

import hashlib
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from hocp_mm.errors import DataError, HOCPError
from hocp_mm.system.files import write_text
from hocp_mm.system.reading import read_text

PARTS = ("train", "val", "test")
_CHECKSUM = re.compile(r"\bsha256=([0-9a-f]{64})\b")


def split_by_group(
    keys: Sequence[str],
    groups: Sequence[str],
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    strata: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    """Divide videos into train, val and test so that no group is in two parts.

    Groups are counted, not videos. Each stratum is shuffled and dealt out, and what its size leaves over is
    carried into the next one: every stratum is near the ratios, and all together are as near as whole groups
    allow. A part with a ratio above 0 gets at least one group.

    Args:
        keys: Names of the videos.
        groups: Group of each video, e.g. the conversation.
        ratios: Shares of train, val and test; any positive sum.
        seed: Seed of the shuffle; the result depends on it and on the sets of names, not on their order.
        strata: Stratum of each video, e.g. the culture; a group belongs to that of its first key by name.

    Returns:
        Sorted keys by part.

    Raises:
        ValueError: If lengths differ, keys repeat, the ratios are no shares, or there are fewer groups than
            parts with a share.
    """
    strata = ["all"] * len(keys) if strata is None else strata
    if not len(keys) == len(groups) == len(strata):
        raise ValueError(
            f"split_by_group: one group and stratum per key, got {len(keys)}, {len(groups)}, {len(strata)}."
        )
    if len(set(keys)) != len(keys):
        raise ValueError("split_by_group: keys must be different, got repeats.")
    if len(ratios) != len(PARTS) or min(ratios) < 0 or sum(ratios) <= 0:
        raise ValueError(f"split_by_group: ratios must be {len(PARTS)} shares of 0 or more, got {tuple(ratios)}.")
    group_of = dict(zip(keys, groups, strict=True))
    stratum_of: dict[str, str] = {}
    for _, group, stratum in sorted(zip(keys, groups, strata, strict=True)):
        stratum_of.setdefault(group, stratum)
    part_of = _deal_groups(stratum_of, [share / sum(ratios) for share in ratios], seed)
    return {part: sorted(key for key in keys if part_of[group_of[key]] == part) for part in PARTS}


def check_no_leak(
    parts: Mapping[str, Iterable[str]], group_of: Callable[[str], str], where: str | Path | None = None
) -> None:
    """Refuse parts that share a video or a group.

    Args:
        parts: Keys by part.
        group_of: Gives the group of a key.
        where: Folder of the parts, for the message.

    Raises:
        DataError: If a key or a group is in two parts; names the first and counts the rest.
    """
    for what, name_of in (("video", str), ("group", group_of)):
        seen: dict[str, str] = {}
        leaks: dict[str, str] = {}
        for part, keys in parts.items():
            for name in sorted({name_of(key) for key in keys}):
                if seen.setdefault(name, part) != part:
                    leaks.setdefault(name, f"{what} {name!r} is in {seen[name]} and {part}")
        if leaks:
            more = f" and {len(leaks) - 1} more" if len(leaks) > 1 else ""
            place = "" if where is None else f"{where}: "
            raise DataError(f"{place}split: no {what} may be in two parts, but {next(iter(leaks.values()))}{more}.")


def write_split_files(
    folder: str | Path, parts: Mapping[str, Sequence[str]], seed: int | None, grouped_by: str = "S"
) -> list[Path]:
    """Write ``<part>.txt`` files, one key a line under a line with seed, checksum and grouping.

    Args:
        folder: Where to write; created.
        parts: Keys by part.
        seed: Seed that made the split, for the record; None for one that nobody drew.
        grouped_by: What was kept together, for the record.

    Returns:
        The files, in the order of ``parts``.
    """
    folder = Path(folder)
    files = []
    for part, keys in parts.items():
        file = folder / f"{part}.txt"
        drawn = "" if seed is None else f"seed={seed} "
        header = f"# {drawn}sha256={_checksum(keys)} grouped by {grouped_by}\n"
        write_text(file, header + _lines(keys), newline="\n", follow=False)
        files.append(file)
    return files


def is_as_written(path: str | Path) -> bool:
    """Tell whether a split file is one of `write_split_files` that nobody has changed since.

    Args:
        path: The file.

    Returns:
        False as well for a file that cannot be read.
    """
    try:
        header, _, text = read_text(Path(path), "split file").partition("\n")
    except HOCPError:
        return False
    promised = _CHECKSUM.search(header) if header.startswith("# ") else None
    return promised is not None and promised.group(1) == hashlib.sha256(text.encode()).hexdigest()


def refuse_to_replace(folder: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Refuse to write over another split, or over one that was written or changed by hand.

    Args:
        folder: Where `write_split_files` is going to write.
        parts: Keys by part.

    Raises:
        DataError: If it would.
    """
    for part, keys in parts.items():
        file = folder / f"{part}.txt"
        same = is_as_written(file) and read_split_file(file, allow_empty=True) == list(keys)
        if os.path.lexists(file) and not same:
            raise DataError(
                f"{file}: holds another split, with which results would no longer compare, or was written by hand; "
                "pass --force to replace it."
            )


def split_path(root: Path, split: str) -> Path:
    """Return the file of a split, which may not exist.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"`` or ``"test"`` (``splits/<split>.txt``), or a file, below ``root`` or anywhere.

    Returns:
        The file.
    """
    if split in PARTS:
        return root / "splits" / f"{split}.txt"
    return Path(split) if Path(split).is_file() else root / split


def read_split_file(path: str | Path, allow_empty: bool = False) -> list[str]:
    """Read the keys of a split file.

    Args:
        path: One key a line; empty lines and lines with ``#`` in front are passed over.
        allow_empty: Accept a part without videos (a share of 0).

    Returns:
        Keys in the order of the file.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no text, holds no key, repeats one, or differs from the checksum in its header.
    """
    path = Path(path)
    lines = [line.strip() for line in read_text(path, "split file").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys and not allow_empty:
        raise DataError(f"{path}: a split must name at least one video, got none.")
    repeated = sorted(key for key, times in Counter(keys).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: a video may be named once, got {repeated[0]!r} more than once.")
    promised = next((match.group(1) for line in lines if (match := _CHECKSUM.search(line))), None)
    if promised is not None and promised != _checksum(keys):
        raise DataError(
            f"{path}: the keys differ from the sha256 in its first line; restore the file, or delete that line "
            "if the change is meant."
        )
    return keys


def check_folders(keys: Sequence[str], root: Path, where: str | Path) -> None:
    """Refuse a split that cannot be one of a set whose clips are folders: it names far more than there are.

    Told one by one they would take minutes and all memory; of a set that is only in part there each is named.

    Args:
        keys: What the split names.
        root: Folder of the set.
        where: File of the split, for the message.

    Raises:
        DataError: If it names more than ten times what is there.
    """
    there = sum(1 for _ in root.iterdir())  # a folder may be a link that leads nowhere: each clip says so itself
    if len(keys) > 1000 + 10 * there:
        raise DataError(
            f"{where}: names {len(keys)} videos, but {root} holds {there} names; it must be the split of this set."
        )


def _checksum(keys: Sequence[str]) -> str:
    return hashlib.sha256(_lines(keys).encode()).hexdigest()


def _lines(keys: Sequence[str]) -> str:
    return "".join(f"{key}\n" for key in keys)


def _deal_groups(stratum_of: Mapping[str, str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Give each group its part by carrying the rounding error on (a weighted round robin)."""
    needed = sum(share > 0 for share in shares)
    if len(stratum_of) < needed:
        raise ValueError(f"split_by_group: {needed} parts need as many groups, got {len(stratum_of)}.")
    shuffler = random.Random(seed)
    owed = [0.0] * len(shares)
    dealt: list[list[str]] = [[] for _ in shares]
    for stratum in sorted(set(stratum_of.values())):
        groups = sorted(group for group in stratum_of if stratum_of[group] == stratum)
        shuffler.shuffle(groups)
        for group in groups:
            owed = [debt + share for debt, share in zip(owed, shares, strict=True)]
            part = max(range(len(shares)), key=lambda index: owed[index])
            owed[part] -= 1
            dealt[part].append(group)
    for part, share in enumerate(shares):
        if share > 0 and not dealt[part]:  # few groups: the largest part gives one up
            dealt[part].append(max(dealt, key=len).pop())
    return {group: PARTS[part] for part, groups in enumerate(dealt) for group in groups}
