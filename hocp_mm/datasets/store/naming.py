"""File names for packs: readable, and different wherever the keys are, on every file system."""

import hashlib
import re
from collections.abc import Sequence

from hocp_mm.errors import DataError

# Names in which no two different keys can meet, not even where a file system takes "a" for "A".
_PLAIN = re.compile(r"[A-Z0-9_-]{1,100}")
_READABLE = 60
_HASH = 16


def pack_name(key: str) -> str:
    """Return the name of the pack of a record, without suffix.

    A key of capitals, digits, ``_`` and ``-`` is its own name. Any other one is followed by a hash of it, and what
    files may not hold is replaced by ``_``.

    Args:
        key: Name of a record.

    Returns:
        A name of ASCII letters, digits, ``_``, ``-`` and ``.`` that depends on the key alone.

    Example:
        >>> pack_name("SAH_C2_S047_P093_VC1_000538_001078")
        'SAH_C2_S047_P093_VC1_000538_001078'
        >>> pack_name("video/5 left")
        'video_5_left.5add531645713bb1'
    """
    if _PLAIN.fullmatch(key):
        return key
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:_HASH]
    return f"{re.sub('[^A-Za-z0-9_-]', '_', key)[:_READABLE]}.{digest}"


def part_name(part: str, number: int) -> str:
    """Return the name of a pack of images, without suffix.

    Args:
        part: Name of the part, ``train`` or ``val``.
        number: Number of the pack in it, from 0.

    Returns:
        The name; no key of a record gives the same one.

    Example:
        >>> part_name("train", 3)
        'train.00003'
    """
    return f"{part}.{number:05d}"


def unique_keys(parts: dict[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return keys that differ over all parts: as they are, or where two parts share one, all as ``<part>/<key>``.

    Args:
        parts: Keys by part.

    Returns:
        Keys by part, in the same order.

    Raises:
        DataError: If a part has a key twice.

    Example:
        >>> unique_keys({"train": ["1.jpg"], "val": ["1.jpg"]})
        {'train': ['train/1.jpg'], 'val': ['val/1.jpg']}
    """
    for part, keys in parts.items():
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if list(keys).count(key) > 1)
            raise DataError(f"{part}: a record may be there once, got {twice!r} more than once.")
    if sum(map(len, parts.values())) == len({key for keys in parts.values() for key in keys}):
        return {part: list(keys) for part, keys in parts.items()}
    return {part: [f"{part}/{key}" for key in keys] for part, keys in parts.items()}
