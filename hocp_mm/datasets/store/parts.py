"""Split and fold files of a store: copies of those of the raw folder, or new ones for official parts."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hocp_mm.datasets.splits import PARTS, check_no_leak, is_as_written, read_split_file, write_split_files
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.structures import same_actor
from hocp_mm.system.files import remove_drafts, replacing
from hocp_mm.system.reading import read_bytes

SPLITS = "splits"
FOLDS = "folds"


def split_files(folder: Path) -> dict[str, Path]:
    """Return the files of a split or fold by part, of those parts that have one.

    Raises:
        MissingDataError: If there is none.
    """
    files = {part: file for part in PARTS if (file := folder / f"{part}.txt").is_file()}
    if not files:
        raise MissingDataError(f"{folder}: holds no {', '.join(f'{part}.txt' for part in PARTS)}.")
    return files


def refuse_to_lose(store: Path, folders: Mapping[str, Path]) -> None:
    """Refuse to replace or remove split files that somebody has written or changed by hand.

    Args:
        store: Folder of the store.
        folders: Folders of split files to be copied, by their place in the store.

    Raises:
        DataError: If there is one that differs from what is copied.
    """
    for file in _part_files(store):
        source = folders.get(file.parent.relative_to(store).as_posix())
        if not (file.is_symlink() or is_as_written(file) or (source and _same_content(file, source / file.name))):
            raise DataError(
                f"{file}: would be replaced, but was written or changed by hand; move it out of the store, or allow to "
                "replace it (--overwrite). Splits of your own stay if they have other names than "
                f"{', '.join(f'{part}.txt' for part in PARTS)}."
            )


def copy_splits(store: Path, folders: Mapping[str, Path], subjects: Mapping[str, str]) -> list[str]:
    """Copy split files into a store, byte for byte.

    Args:
        store: Folder of the store.
        folders: Folders of split files by their place in the store: ``splits``, ``folds/fold_0`` …
        subjects: Subject of each record.

    Returns:
        All keys that they name, each once.

    Raises:
        DataError: If a file breaks a rule of `read_split_file`, or a subject is in two parts.
    """
    named: dict[str, None] = {}
    _remove_others(store, {place: split_files(folder) for place, folder in folders.items()})
    for place, folder in folders.items():
        parts = {part: read_split_file(file, allow_empty=True) for part, file in split_files(folder).items()}
        # A record that was left out counts as somebody else: nobody sees it. So does one of an unknown subject.
        check_no_leak(parts, lambda key: same_actor(subjects.get(key, "")) or f"record {key}", folder)
        for part, file in split_files(folder).items():
            content = file.read_bytes()
            with replacing(store / place / f"{part}.txt", follow=False) as draft:
                draft.write_bytes(content)
            named |= dict.fromkeys(parts[part])
    return list(named)


def write_official_splits(store: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Write the parts that a data set itself has as split files.

    Args:
        store: Folder of the store.
        parts: Keys by part.

    Raises:
        DataError: If a key would not come back as it is: one that begins with ``#``, ends with a space, or has a line
            break in it.
    """
    _remove_others(store, {SPLITS: parts})
    for part, file in zip(
        parts, write_split_files(store / SPLITS, parts, seed=None, grouped_by="official part"), strict=True
    ):
        try:
            back = read_split_file(file, allow_empty=True)
        except DataError:
            back = []
        if back != list(parts[part]):
            odd = next(
                (key for key in parts[part] if key != key.strip() or key[:1] == "#" or len(key.splitlines()) != 1), ""
            )
            file.unlink()
            raise DataError(f"{file}: keys must be single lines without # or spaces at their ends, got {odd!r}.")


def _remove_others(store: Path, wanted: Mapping[str, Collection[str]]) -> None:
    """Remove the split files of an earlier preparation, which must not be taken for those of this one.

    Args:
        store: Folder of the store.
        wanted: Parts of this preparation by their place in the store.
    """
    for file in _part_files(store):
        if file.stem not in wanted.get(file.parent.relative_to(store).as_posix(), ()):
            file.unlink()
    for folder in _folders(store):
        remove_drafts(folder)
        if not any(folder.iterdir()):
            folder.rmdir()


def _folders(store: Path) -> list[Path]:
    """Return the folders of split files of an earlier preparation."""
    return [folder for folder in (store / SPLITS, *sorted((store / FOLDS).glob("fold_*"))) if folder.is_dir()]


def _part_files(store: Path) -> Iterator[Path]:
    """Yield the split files of an earlier preparation; all others in their folders are the user's."""
    for folder in _folders(store):
        for part in PARTS:
            if os.path.lexists(file := folder / f"{part}.txt"):
                yield file


def _same_content(file: Path, source: Path) -> bool:
    return source.is_file() and read_bytes(file, "split file") == source.read_bytes()
