"""Any data set of affect, prepared once as a store of face crops (see `hocp_mm.datasets.store`)."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.records.dataset import AffectDataset
from hocp_mm.datasets.records.record import RecordTable
from hocp_mm.datasets.splits import PARTS, Parts, check_no_leak, count_folds, read_fold, read_split_file, split_path
from hocp_mm.datasets.store.header import check_expected, read_header
from hocp_mm.datasets.store.index import INDEX_NAME, read_index
from hocp_mm.datasets.store.report import REPORT, left_out_keys, read_report
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS
from hocp_mm.structures import same_actor
from hocp_mm.system.refusals import visible

_SHOWN_KEYS = 5


@DATASETS.register_module()
class FaceCropDataset(AffectDataset):
    """Records of a store in one of its parts; `LoadFaceClip` reads them from the packs.

    What the raw data set checked has been checked when the store was prepared: nothing but the header, the index and
    the split files are read at the start. Every picture is compared with its checksum when it is read.

    Args:
        data_root: Folder of the store (``tools/prepare/{sewa,afew_va,affectnet,affwild2}.py`` write it).
        split: ``"train"``, ``"val"`` or ``"test"`` as the store lists it, or a file of keys (then ``fold`` is None).
        fold: Number of the fold, from 0, for a store with folds.
        expected: Options of the raw data set that a config asks for; those that the store was prepared with must agree
            (see `check_expected`).
        **kwargs: Options of `AffectDataset`. Labels are in [-1, 1] already, so ``label_range`` is not one of them.

    Raises:
        MissingDataError: If the store or the split is missing or not finished; says how to get it.
        DataError: If a file of the store is damaged, it was prepared with other options, a split names a record that
            nobody has heard of, or a subject is in two parts.
        ValueError: If an option is out of its range or contradicts another.
    """

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        *,
        fold: int | None = None,
        expected: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if "label_range" in kwargs:
            raise ValueError("FaceCropDataset: label_range belongs to the raw data set; a store has labels in [-1, 1].")
        if fold is not None and (isinstance(fold, bool) or not isinstance(fold, int) or fold < 0):
            raise ValueError(f"FaceCropDataset: fold must be a number, 0 or more, got {fold!r}.")
        if fold is not None and split not in PARTS:
            raise ValueError(
                f"FaceCropDataset: split={split!r} is no part of a fold ({', '.join(PARTS)}), got fold={fold}."
            )
        self.root = Path(data_root)
        self.split = str(split)
        self.fold = fold
        self.header = read_header(self.root)
        check_expected(str(self.root), self.header, expected or {})
        self._identity: int | None = None
        super().__init__(str(data_root), **kwargs)
        told = {name: value for name, value in self.header.metainfo.items() if name not in self.METAINFO}
        self.facts |= {**told, "fold": fold}

    @property
    def table(self) -> RecordTable:
        """All records of the store; another process reads the file again instead of receiving it."""
        if self._table is None:
            self._table = self._read_index()
        return self._table

    @property
    def name(self) -> str:
        """Name of this part, for messages."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"FaceCropDataset({self.root}, {self.split}{fold})"

    @property
    def raw_class(self) -> type[AffectDataset]:
        """The class whose records are in the store, or the base, which knows nothing, where it is not imported."""
        # Only among the classes that are there: a name in a file of strangers imports nothing.
        found = DATASETS.module_dict.get(self.header.dataset)
        return found if isinstance(found, type) and issubclass(found, AffectDataset) else AffectDataset

    def record_options(self) -> dict[str, Any]:
        """Return the options that the store was prepared with."""
        return dict(self.header.record_options)

    def load_records(self) -> RecordTable:
        """Return the records of the part, in the order of its split file."""
        return RecordTable.of(self.table[row] for row in self.select().tolist())

    def __getstate__(self) -> dict[str, Any]:
        """Travel to other processes without the index."""
        return {**self.__dict__, "_table": None}

    def _read_index(self) -> RecordTable:
        path = self.root / INDEX_NAME
        index = read_index(path)
        counts = {"records": len(index), "frames": len(index.affect)}
        told = {name: self.header.counts.get(name) for name in counts}
        if index.crop != self.header.crop or told != counts:
            raise DataError(
                f"{path}: must belong to {self.root / 'store.json'}, but that tells of {told} cut with "
                f"{self.header.crop}, and the index holds {counts} cut with {index.crop}; copy the store as a whole."
            )
        # The rows of the samples were chosen in the index that was read first, perhaps by another process.
        if self._identity not in (None, index.identity):
            raise DataError(f"{path}: the store was prepared again while it was in use; start again.")
        self._identity = index.identity
        return index

    def select(self) -> NDArray[np.int32]:
        """Return the numbers of the part's records in `table`, and log what is not in the store."""
        parts, path = self._read_parts()
        place = {key: row for row, key in enumerate(self.table.keys)}
        self._check_leak(parts, place, path.parent)
        keys = parts[path.stem]
        missing = [key for key in keys if key not in place]
        left_out = left_out_keys(read_report(self.root)) if missing else set()
        if unknown := [key for key in missing if key not in left_out]:
            raise DataError(
                f"{path}: must name records of the store, but {unknown[0]!r} and {len(unknown) - 1} others are neither "
                f"in it nor in its {REPORT}; was it prepared from other data?"
            )
        if len(missing) == len(keys):
            raise DataError(
                f"{path}: at least one record must be in the store, got none of {len(keys)} (see {REPORT})."
            )
        rows = np.array([place[key] for key in keys if key in place], dtype=np.int32)
        self._log(rows, missing)
        return rows

    def _read_parts(self) -> tuple[Parts, Path]:
        """Return the keys of all parts that belong together, and the file of the wanted one."""
        if self.fold is not None:
            folder = self.root / "folds" / f"fold_{self.fold}"
            return read_fold(self.root, self.fold), folder / f"{self.split}.txt"
        path = split_path(self.root, self.split)
        if not path.is_file():
            raise MissingDataError(f"FaceCropDataset: split file {path} does not exist ({self._known_splits()}).")
        parts = {path.stem: read_split_file(path)}
        if path.stem in PARTS:
            files = {part: path.with_name(f"{part}{path.suffix}") for part in PARTS if part != path.stem}
            parts |= {part: read_split_file(file, allow_empty=True) for part, file in files.items() if file.is_file()}
        return parts, path

    def _known_splits(self) -> str:
        files = sorted(file.stem for file in (self.root / "splits").glob("*.txt"))
        known = [f"splits {', '.join(files)}"] if files else []
        if count := count_folds(self.root):
            known.append(f"folds 0 to {count - 1}, chosen with fold=K")
        return f"the store has {' and '.join(known)}" if known else "the store has no splits"

    def _check_leak(self, parts: Parts, place: Mapping[str, int], folder: Path) -> None:
        """Refuse parts that share a subject; a record that is not in the store counts as somebody else."""
        subjects = self.table.subjects
        alike = {subject: same_actor(subject) for subject in set(subjects)}

        def group_of(key: str) -> str:
            return alike[subjects[place[key]]] if key in place else ""

        known = {part: {group for key in keys if (group := group_of(key))} for part, keys in parts.items()}
        pairs = list(combinations(parts, 2))
        if all(set(parts[a]).isdisjoint(parts[b]) and known[a].isdisjoint(known[b]) for a, b in pairs):
            return
        check_no_leak(parts, lambda key: group_of(key) or f"record {key}", folder)

    def _log(self, rows: NDArray[np.int32], missing: Sequence[str]) -> None:
        crop = self.header.crop
        frames = int(self.table.num_frames[rows].sum())
        cut = "whole frames" if crop.margin is None else f"faces by {crop.faces}, margin {crop.margin:g}"
        text = f"{self.name}: {len(rows)} records of {self.header.dataset}, {frames} frames, {crop.size} pixels, {cut}"
        print_log(visible(text), logger="current")
        if missing:
            shown = ", ".join(missing[:_SHOWN_KEYS]) + (", …" if len(missing) > _SHOWN_KEYS else "")
            self.warn(f"{len(missing)} records of the split were left out of the store ({shown}; see {REPORT})")
