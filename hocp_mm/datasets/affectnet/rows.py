"""What both releases of AffectNet share: their classes, and the rules by which rows are kept.

- 0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt
- 8 none, 9 uncertain, 10 occluded or no face, 11 ("xxx" in EMOCA's list): only in the release of 2017
- valence and arousal in [-1, 1]; -2 = invalid
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import FIRST_INNER, landmark_boxes
from hocp_mm.datasets.records.faults import Fault

EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""Names of the classes 0 to 7, in AffectNet's order (EmotiEffLib's models use the alphabetical one)."""

INVALID = -2.0
"""Valence or arousal of a row that has none."""

NO_EXPRESSION = -1
"""Class of a row whose cell is NULL, and of every row where expressions are not asked for."""

LAST_CLASS = 11
NUM_LANDMARKS = 68

Classes = Literal[8, 7, "emonet5", "va_only"]

_OTHERS = {8: "none", 9: "uncertain", 10: "occluded or no face", 11: "xxx", NO_EXPRESSION: "NULL"}
_KEPT: dict[Classes, tuple[int, ...]] = {
    8: (0, 1, 2, 3, 4, 5, 6, 7),
    7: (0, 1, 2, 3, 4, 5, 6),
    "emonet5": (0, 1, 2, 3, 6),  # anger becomes 4
    "va_only": (NO_EXPRESSION, 0, 1, 2, 3, 4, 5, 6, 7, 8),
}


@dataclass
class AffectNetRows:
    """All rows of one part as its files have them; rows with a fault are named in ``faults`` and left out.

    Attributes:
        source: The csv file, or the folder of annotations.
        images: Folder that ``files`` lie in.
        files: Image of each row, relative to ``images``.
        lines: Line of each row in the csv file; None for the release of 2021.
        expression: Class, int16 ``[N]``, -1 for NULL.
        affect: Valence and arousal, float64 ``[N, 2]``; -2 is invalid, NaN is NULL.
        boxes: Face boxes float32 ``[N, 4]``, NaN rows where there is none, by ``"box"`` (of the csv file),
            ``"landmarks"`` (all 68 points) and ``"inner"`` (without the jaw line).
        faults: One text per fault.
        extra_images: Images without annotations.
    """

    source: Path
    images: Path
    files: list[str]
    lines: NDArray[np.int64] | None
    expression: NDArray[np.int16]
    affect: NDArray[np.float64]
    boxes: dict[str, NDArray[np.float32]]
    faults: list[Fault] = field(default_factory=list)
    extra_images: int = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.files)

    def where(self, row: int) -> str:
        """Name the place that a row comes from."""
        return self.file_of(row) if self.lines is None else f"{self.source}: line {self.lines[row]}"

    def file_of(self, row: int) -> str:
        """Name the file that a row comes from, or with a star the files."""
        return str(self.source) if self.lines is not None else f"{self.source / Path(self.files[row]).stem}_*.npy"


def expression_names(classes: Classes) -> tuple[str, ...]:
    """Return the names of the classes that a choice leaves, in the order of their new numbers.

    Example:
        >>> expression_names("emonet5"), expression_names("va_only")
        (('neutral', 'happy', 'sad', 'surprise', 'anger'), ())
    """
    return () if classes == "va_only" else tuple(EXPRESSIONS[index] for index in _KEPT[classes])


def renumber(expression: NDArray[np.int16], classes: Classes) -> NDArray[np.int8]:
    """Give kept classes the numbers 0, 1, 2, … of a choice; all are -1 for ``"va_only"``.

    Args:
        expression: AffectNet's classes of kept rows, ``[N]``.
        classes: The choice.

    Returns:
        Classes, int8 ``[N]``.
    """
    if classes == "va_only":
        return np.full(len(expression), NO_EXPRESSION, dtype=np.int8)
    return np.searchsorted(_KEPT[classes], expression).astype(np.int8)


def select_rows(
    rows: AffectNetRows, classes: Classes, face: str | None, emonet_clean: bool
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Tell which rows are kept, and count the others by the first reason that applies.

    Args:
        rows: All rows.
        classes: The choice of classes.
        face: Key of ``rows.boxes`` that must be there, or None.
        emonet_clean: Also apply `emonet_rules`.

    Returns:
        Kept rows, bool ``[N]``, and the number of dropped ones by reason.
    """
    keep = np.isin(rows.expression, _KEPT[classes])
    dropped: dict[str, int] = {}
    for number, name in (*enumerate(EXPRESSIONS), *_OTHERS.items()):
        title = "expression NULL" if number == NO_EXPRESSION else f"class {number} ({name})"
        _count(dropped, title, ~keep & (rows.expression == number))
    unknown = keep & (np.isnan(rows.affect) | (rows.affect == INVALID)).any(axis=1)
    _count(dropped, "valence or arousal -2 or NULL", unknown)
    keep &= ~unknown
    if face is not None:
        faceless = keep & np.isnan(rows.boxes[face]).any(axis=1)
        _count(dropped, "no face box" if face == "box" else "no landmarks", faceless)
        keep &= ~faceless
    if emonet_clean:
        unclean = keep & ~emonet_rules(rows.expression, rows.affect)
        _count(dropped, "not in EmoNet's cleaned set", unclean)
        keep &= ~unclean
    return keep, dropped


def emonet_rules(expression: NDArray[np.integer], affect: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which rows pass EmoNet's cleaning: labels whose expression, valence and arousal agree.

    With intensity i = sqrt(v^2 + a^2): neutral i < 0.2; happy v > 0; sad and contempt v < 0; surprise and anger a > 0;
    fear a >= 0 and v <= 0, all of these i > 0.2; disgust v < 0 and i > 0.3 (emonet/data/affecnet.py, 49eef30). EmoNet
    also asks for a flag that only its own files hold, so this set is a little larger than its.

    Args:
        expression: AffectNet's classes, ``[N]``; a row of another class than 0 to 7 does not pass.
        affect: Valence and arousal in [-1, 1], ``[N, 2]``.

    Returns:
        Bool ``[N]``.
    """
    valence, arousal = affect[:, 0], affect[:, 1]
    strength = np.hypot(valence, arousal)
    rules = {
        0: strength < 0.2,
        1: (valence > 0) & (strength > 0.2),
        2: (valence < 0) & (strength > 0.2),
        3: (arousal > 0) & (strength > 0.2),
        4: (arousal >= 0) & (valence <= 0) & (strength > 0.2),
        5: (valence < 0) & (strength > 0.3),
        6: (arousal > 0) & (strength > 0.2),
        7: (valence < 0) & (strength > 0.2),
    }
    passed = np.zeros(len(expression), dtype=np.bool_)
    for number, rule in rules.items():
        passed |= (expression == number) & rule
    return passed


BOX_LAYOUT = {"landmarks": ("float32", (4,)), "inner": ("float32", (4,))}
"""Type and sides of what `box_columns` returns."""


def box_columns(points: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    """Return the boxes around all landmarks and around those without the jaw line.

    Args:
        points: 68 points, ``[N, 68, 2]``, NaN without landmarks.

    Returns:
        Boxes float32 ``[N, 4]``, NaN rows where there is none.
    """
    return {"landmarks": landmark_boxes(points), "inner": landmark_boxes(points[:, FIRST_INNER:])}


def summary(counts: dict[str, int], names: Sequence[str] = ()) -> str:
    """Write counts as ``a 3, b 4``, those of ``names`` first."""
    order = [*names, *(name for name in counts if name not in names)]
    return ", ".join(f"{name} {counts[name]}" for name in order if name in counts)


def _count(dropped: dict[str, int], reason: str, rows: NDArray[np.bool_]) -> None:
    if number := int(rows.sum()):
        dropped[reason] = number


def image_keys(files: list[str], kept: NDArray[np.integer]) -> list[str]:
    """Name kept rows: like the image, and ``<image>#2``, ``#3``, … for further rows of one image.

    The numbers count all rows, so that a row keeps its name whatever else is dropped.

    Args:
        files: Image of every row.
        kept: Numbers of the rows to name, increasing.

    Returns:
        The names.

    Example:
        >>> image_keys(["a.jpg", "b.jpg", "a.jpg", "a.jpg"], np.array([1, 3]))
        ['b.jpg', 'a.jpg#3']
    """
    seen: dict[str, int] = {}
    numbers = []
    for file in files:
        seen[file] = number = seen.get(file, 0) + 1
        numbers.append(number)

    def name(row: int) -> str:
        key = files[row] if numbers[row] == 1 else f"{files[row]}#{numbers[row]}"
        while numbers[row] > 1 and key in seen:  # an image of that very name
            key += "#"
        return key

    return [name(row) for row in kept.tolist()]
