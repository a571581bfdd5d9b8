"""Hundreds of thousands of one-frame records in a few arrays."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.records.packed_strings import PackedStrings


class AffectNetTable:
    """The rows that a data set gives, as columns; some 100 bytes a row.

    Args:
        folder: Folder that ``files`` lie in.
        keys: Name of each row, unique.
        files: Image of each row, relative to ``folder``.
        affect: Valence and arousal in [-1, 1], float32 ``[N, 2]``.
        expression: Classes, int8 ``[N]``, -1 = none.
        boxes: Face boxes float32 ``[N, 4]``, or None for whole images.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[str],
        files: Sequence[str],
        affect: NDArray[np.float32],
        expression: NDArray[np.int8],
        boxes: NDArray[np.float32] | None,
    ) -> None:
        self.folder = str(folder.absolute())
        self._files = PackedStrings(files)
        # Rows that have an image for themselves, nearly all, are named like it.
        self._other_keys = {row: key for row, (key, file) in enumerate(zip(keys, files, strict=True)) if key != file}
        self.affect = affect
        self.expression = expression
        self.boxes = boxes

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._files)

    def files(self) -> list[str]:
        """Return the image of each row, relative to the folder."""
        return [self._files[row] for row in range(len(self))]

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        boxes = 0 if self.boxes is None else self.boxes.nbytes
        return self._files.nbytes + self.affect.nbytes + self.expression.nbytes + boxes

    def record(self, row: int) -> dict[str, Any]:
        """Return what enters the pipeline: a video of one frame that is an image file (see `AffectDataset`)."""
        file = self._files[row]
        path = f"{self.folder}{os.sep}{file}"
        return {
            "video": self._other_keys.get(row, file),
            "filename": path,
            "frame_files": [path],
            "num_frames": 1,
            "fps": 0.0,
            "subject": "",  # AffectNet does not say who is who
            "affect": self.affect[row : row + 1].copy(),
            "valid": np.ones(1, dtype=np.bool_),
            "boxes": None if self.boxes is None else self.boxes[row : row + 1].copy(),
            "face_found": np.ones(1, dtype=np.bool_),
            "expression": int(self.expression[row]),
        }


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
