"""Does a store hold what a config asks for?"""

import json
from collections.abc import Mapping
from typing import Any

from hocp_mm.datasets.store.header import StoreHeader
from hocp_mm.errors import DataError

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
