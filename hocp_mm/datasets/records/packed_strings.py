"""Hundreds of thousands of strings in one array of bytes."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class PackedStrings:
    """Strings in one array of bytes: no object each, so that processes share the memory as long as they only read.

    Example:
        >>> names = PackedStrings(["a", "", "ü"])
        >>> len(names), names[2]
        (3, 'ü')
    """

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self._ends = np.cumsum([len(raw) for raw in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def from_arrays(cls, characters: NDArray[np.uint8], ends: NDArray[np.int64]) -> "PackedStrings":
        """Return the strings that `arrays` took apart.

        Raises:
            ValueError: If the ends do not divide the characters.
        """
        if len(ends) and ((np.diff(ends) < 0).any() or ends[0] < 0):
            raise ValueError("PackedStrings: ends must not decrease.")
        if (int(ends[-1]) if len(ends) else 0) != len(characters):
            raise ValueError(f"PackedStrings: the last end must be {len(characters)}, the number of characters.")
        strings = cls(())
        strings._bytes, strings._ends = characters, ends
        return strings

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return all characters, and where each string ends in them."""
        return self._bytes, self._ends

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Return one string."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])].tobytes())

    def tolist(self) -> list[str]:
        """Return all strings, far faster than one by one."""
        raw, ends = self._bytes.tobytes(), self._ends.tolist()
        text = raw.decode("ascii") if raw.isascii() else None
        pieces = (slice(start, end) for start, end in zip([0, *ends], ends, strict=False))
        return [os.fsdecode(raw[piece]) if text is None else text[piece] for piece in pieces]

    @property
    def nbytes(self) -> int:
        """Memory of all strings."""
        return self._bytes.nbytes + self._ends.nbytes
