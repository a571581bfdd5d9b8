"""``store.json``: what a store was made from, and how; and whether that is what a config asks for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.files import write_text
from hocp_mm.system.reading import read_json

FORMAT_VERSION = 1
HEADER_NAME = "store.json"


@dataclass(frozen=True)
class StoreHeader:
    """What is known about a store as a whole.

    Attributes:
        dataset: Class of the raw data set, without scope (``"SEWADataset"``).
        metainfo: Its metainfo and facts, as far as JSON can hold it; lists come back as tuples.
        record_options: Its options that shaped the records (`AffectDataset.record_options`).
        crop: How the pictures were cut.
        counts: Numbers for people: at least ``records`` and ``frames``.
        splits: Where the parts are listed: ``"splits"``, ``"folds"`` or both.
        package_version: Of hocp_mm that wrote it.
        format_version: Of the files of the store.
    """

    dataset: str
    metainfo: Mapping[str, Any]
    record_options: Mapping[str, Any]
    crop: CropSettings
    counts: Mapping[str, int]
    splits: Sequence[str] = ("splits",)
    package_version: str = ""
    format_version: int = field(default=FORMAT_VERSION)


def write_header(store: str | Path, header: StoreHeader) -> Path:
    """Write ``<store>/store.json``, whole or not at all.

    Args:
        store: Folder of the store.
        header: What to write.

    Returns:
        The file.
    """
    path = Path(store) / HEADER_NAME
    values = asdict(header) | {"crop": header.crop.to_json()}
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n", follow=False)
    return path


def require_header(store: str | Path) -> None:
    """Refuse a ``store.json`` that no version of hocp_mm has written, before anything beside it is replaced.

    Args:
        store: Folder of the store.

    Raises:
        DataError: If it is one.
    """
    path = Path(store) / HEADER_NAME
    values = read_json(path, "header")
    if not isinstance(values, dict) or not {"dataset", "crop", "package_version", "format_version"} <= values.keys():
        raise DataError(f"{path}: must be the header of a store, got something else; name another folder.")


def read_header(store: str | Path) -> StoreHeader:
    """Read ``<store>/store.json``.

    Args:
        store: Folder of the store.

    Returns:
        What it says.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no header, or of a newer format.
    """
    path = Path(store) / HEADER_NAME
    try:
        values = read_json(path, "header")
    except MissingDataError as error:
        raise MissingDataError(
            f"{path}: no such file, so {store} is no store of face crops; `python tools/prepare/<data set>.py` writes "
            "one."
        ) from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format_version must be {FORMAT_VERSION}, got {version!r}; prepare the store again with this "
            "version of hocp_mm, or use the version that wrote it."
        )
    kinds = {
        "dataset": str,
        "metainfo": dict,
        "record_options": dict,
        "crop": dict,
        "counts": dict,
        "splits": list,
        "package_version": str,
        "format_version": int,
    }
    wrong = [name for name, kind in kinds.items() if not isinstance(values.get(name), kind)]
    if wrong or set(values) != set(kinds):
        raise DataError(f"{path}: must hold {', '.join(kinds)}, got {wrong or sorted(set(values) - set(kinds))}.")
    crop = CropSettings.from_json(values.pop("crop"), str(path))
    metainfo = values.pop("metainfo")
    metainfo = {key: tuple(value) if isinstance(value, list) else value for key, value in metainfo.items()}
    return StoreHeader(crop=crop, metainfo=metainfo, **values)


_WHOLE_FRAMES = "frame"


def check_expected(where: str, header: StoreHeader, expected: Mapping[str, Any]) -> None:
    """Refuse a store that was prepared with other options than those of a config.

    Args:
        where: The store, for the message.
        header: What the store was made from.
        expected: Options of the raw data set. Compared are ``dataset`` (the class), all that shape labels, and
            ``faces`` and ``pixel_aspect``; others (its folder, its check of files) say nothing about a store, and None
            stands for any value. Boxes of a detector agree with any ``faces`` but ``"frame"``.

    Raises:
        DataError: Names each option with both values.
    """
    crop = header.crop
    known = {**header.record_options, "dataset": header.dataset, "faces": crop.faces, "pixel_aspect": crop.pixel_aspect}
    if "face_detector" in header.metainfo and expected.get("faces") != _WHOLE_FRAMES:
        known.pop("faces")
    wrong = [
        f"{name}={value!r} instead of {_plain(expected[name])!r}"
        for name, value in known.items()
        if expected.get(name) is not None and _plain(expected[name]) != _plain(value)
    ]
    if wrong:
        raise DataError(
            f"{where}: the store must have been prepared as the config reads the data, but it was with "
            f"{', '.join(wrong)}; change the config, or prepare a store of its own."
        )


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))
