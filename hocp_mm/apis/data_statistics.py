"""Counts and ranges over the records of a part."""

from typing import Any

import numpy as np

from hocp_mm.apis.data_report import PartReport, Range


class PartStatistics:
    """Sums that need one record at a time."""

    def __init__(self) -> None:
        self._records = self._frames = self._valid = self._found = 0
        self._subjects: set[str] = set()
        self._low = np.full(2, np.inf)
        self._high = np.full(2, -np.inf)

    def add(self, record: dict[str, Any]) -> None:
        """Take in a record (see `AffectDataset`)."""
        self._records += 1
        self._frames += record["num_frames"]
        valid = record["valid"]
        self._valid += int(np.count_nonzero(valid))
        self._found += int(np.count_nonzero(record["face_found"]))
        if record["subject"]:
            self._subjects.add(record["subject"])
        labels = record["affect"][valid]
        if len(labels):
            self._low = np.minimum(self._low, labels.min(axis=0))
            self._high = np.maximum(self._high, labels.max(axis=0))

    def report(self, **known: Any) -> PartReport:
        """Return the account of the part.

        Args:
            **known: What is not counted here.

        Returns:
            The account.
        """
        valence, arousal = (self._range(0), self._range(1)) if self._valid else (None, None)
        return PartReport(
            records=self._records,
            frames=self._frames,
            valid_frames=self._valid,
            subjects=len(self._subjects),
            valence_range=valence,
            arousal_range=arousal,
            face_found_share=self._found / self._frames if self._frames else None,
            **known,
        )

    def _range(self, dimension: int) -> Range:
        return float(self._low[dimension]), float(self._high[dimension])
