"""How the crops of a store were cut and written."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from hocp_mm.errors import DataError

Codec = Literal["jpeg", "png"]
CODECS = ("jpeg", "png")
_LARGEST_SIZE = 8192


@dataclass(frozen=True)
class CropSettings:
    """What decides the pixels of a store.

    Attributes:
        size: Side of the pictures, pixels.
        margin: Side of the square in units of the longer side of the smoothed face box; None = whole frames.
        smooth: Window of the moving average of the boxes, in frames.
        codec: ``"jpeg"`` or ``"png"`` (without loss, about four times the bytes and the time to decode).
        quality: Of JPEG, 1 to 100.
        faces: Where the boxes come from: the data set's own word (``"landmarks"``, ``"box"``, ``"frame"`` …) or the
            name of a detector.
        pixel_aspect: Width of a pixel of the source over its height; the pictures have square pixels.
    """

    size: int = 176
    margin: float | None = 1.5
    smooth: int = 25
    codec: Codec = "jpeg"
    quality: int = 95
    faces: str = "landmarks"
    pixel_aspect: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that no store can have.

        Raises:
            ValueError: If a value is out of its range.
        """
        rules = (
            (_whole(self.size, 1, _LARGEST_SIZE), f"size must be a whole number from 1 to {_LARGEST_SIZE}", self.size),
            (self.margin is None or _positive(self.margin), "margin must be positive, or None", self.margin),
            (_whole(self.smooth, 1), "smooth must be a whole number of 1 or more", self.smooth),
            (self.codec in CODECS, f"codec must be one of {', '.join(CODECS)}", self.codec),
            (_whole(self.quality, 1, 100), "quality must be a whole number from 1 to 100", self.quality),
            (isinstance(self.faces, str) and self.faces != "", "faces must be a name", self.faces),
            (_positive(self.pixel_aspect), "pixel_aspect must be positive", self.pixel_aspect),
        )
        for kept, rule, value in rules:
            if not kept:
                raise ValueError(f"CropSettings: {rule}, got {value!r}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as an object for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any, where: str) -> "CropSettings":
        """Return the settings that `to_json` wrote.

        Args:
            values: The object.
            where: File that it comes from, for the message.

        Returns:
            The settings.

        Raises:
            DataError: If a setting is missing, unknown or out of its range.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            got = sorted(values) if isinstance(values, Mapping) else repr(values)
            raise DataError(f"{where}: crop settings must be {', '.join(sorted(names))}, got {got}.")
        try:
            return cls(**values)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error


def _whole(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
