"""The base of all data sets of affect: they find clips and read each into a `Record`, and the base does the rest."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.records.faults import Fault, raise_faults, skipped_text
from hocp_mm.datasets.records.record import Record, RecordTable
from hocp_mm.datasets.records.twins import Claim, without_twins
from hocp_mm.datasets.splits import check_no_leak
from hocp_mm.datasets.transforms.sampling import SampleClip, clip_ticks, require_rate, window_starts
from hocp_mm.errors import DataError, HOCPError
from hocp_mm.registry import TRANSFORMS
from hocp_mm.structures import AffectDataSample
from hocp_mm.system.refusals import visible

OnFault = Literal["error", "skip"]
_HOPELESS = 100  # mmengine would try a thousand clips, then raise an error that names no file
_THREADS = 8
_TOLD_EVERY = 100


@dataclass
class Scan:
    """What reading one clip of a data set gave.

    Attributes:
        record: The record, or None for a clip that cannot be used.
        faults: What breaks a rule: single frames, or, if there is no record, the clip.
        notes: What the report of the set is made from.
    """

    record: Record | None = None
    faults: list[Fault] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reading:
    """What reading a whole set gave.

    Attributes:
        table: The records that can be used.
        faults: What is wrong with others, or with single frames.
        left_out: Names of the clips that are not used.
        notes: What the report of the set is made from: those of each clip (`Scan`), or of the set as a whole.
    """

    table: RecordTable
    faults: Sequence[Fault]
    left_out: Sequence[str] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


class Partition(NamedTuple):
    """The parts that a data set is divided into, to see that they share nobody.

    Attributes:
        parts: Clips of each part.
        group_of: Gives whom a clip shows.
        folder: Where the parts are written down.
    """

    parts: Mapping[str, Sequence[str]]
    group_of: Callable[[str], str]
    folder: Path


class SampleItems(Sequence[dict[str, int]]):
    """One small dict per clip or window, made when it is asked for: eight bytes each in memory.

    Args:
        rows: Record of each sample.
        starts: First frame of each sample; None for random clips.
    """

    def __init__(self, rows: NDArray[np.int32], starts: NDArray[np.int32] | None) -> None:
        self.rows = rows
        self.starts = starts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """Return one item, or for a slice the samples in it."""
        if isinstance(index, slice):
            return SampleItems(self.rows[index], None if self.starts is None else self.starts[index])
        item = {"row": int(self.rows[index])}
        return item if self.starts is None else item | {"start": int(self.starts[index])}


class AffectDataset(BaseDataset):
    """Base of the data sets: a subclass says where its files are and what they mean.

    - `keys` names its clips,
    - `scan` reads one of them,
    - `claims` names the files that no other clip may have, and
    - `partition` the parts that may share nobody.

    The base reads all clips in threads, finds copies of files that took the place of others and people who are in two
    parts, raises all faults together or leaves the clips out, and keeps the records in one `RecordTable`, however many
    clips or windows are taken from them. ``docs/own_data_set.md`` shows a whole one.

    Args:
        data_root: Folder of the set.
        pipeline: Transforms, as configs or callables.
        label_range: Lowest and highest value of the annotation scale, mapped linearly to [-1, 1]. It is
            stated, never guessed, and a label outside of it is an error.
        clips_per_video: Training: random clips that each video gives in one epoch.
        windows: Test: ``dict(clip_len=, stride=)`` of the sliding windows, which cover every frame (see
            `window_starts`). Their frames lie as far apart as those of the pipeline's ``SampleClip``; if the dict says
            that, too (``frame_interval`` or ``fps``), both must agree, as they must in ``clip_len``.
        test_mode: Give windows in order instead of random clips.
        on_fault: ``"error"`` refuses a set with faults. ``"skip"`` leaves faulty videos out, counts them by kind and
            names them in a warning; a clip that turns out to be damaged in training is replaced by another and named
            (in test mode it ends the run: no frame may be lost silently).
        facts: What a subclass knows besides ``FACTS``.
        **kwargs: Options of ``mmengine.dataset.BaseDataset``.

    Raises:
        ValueError: If an option is out of its range or contradicts another.

    Attributes:
        facts: ``FACTS``, ``label_range``, and what a subclass adds. Samples carry ``dataset_type`` as ``source``, and
            ``expressions``, the names of the classes.
        faults: What reading the clips found wrong; not empty only with ``on_fault="skip"``.
        notes: Warnings that are no faults: cut videos, frames without label …
        at_hand: What `keys` read for `scan` and the report alone; empty after the reading, as each worker of a loader
            gets a copy of all else.
    """

    RECORD_OPTIONS: ClassVar[tuple[str, ...]] = ("label_range",)
    """Names of the options that shape labels: a store prepared with others holds other labels."""
    METAINFO = {"dims": ("valence", "arousal")}  # noqa: RUF012 - mmengine reads a class attribute of this name
    FACTS: ClassVar[Mapping[str, Any]] = {}
    """What is true of this set alone, and so no metainfo: that must be the same in all sets that are joined."""

    def __init__(
        self,
        data_root: str = "",
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        *,
        label_range: Sequence[float] = (-1.0, 1.0),
        clips_per_video: int = 1,
        windows: Mapping[str, float] | None = None,
        test_mode: bool = False,
        on_fault: OnFault = "error",
        facts: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        require_known(name, on_fault=(on_fault, ("error", "skip")))
        if len(label_range) != 2 or not label_range[0] < label_range[1]:
            raise ValueError(f"{name}: label_range must be (lowest, highest), got {tuple(label_range)}.")
        if clips_per_video < 1:
            raise ValueError(f"{name}: clips_per_video must be 1 or more, got {clips_per_video}.")
        if test_mode and windows is None:
            raise ValueError(f"{name}: test_mode needs windows=dict(clip_len=…, stride=…), got None.")
        self.label_range = (float(label_range[0]), float(label_range[1]))
        self.clips_per_video = clips_per_video
        self.windows = dict(windows or {})
        steps = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]
        self._check_sampling(steps, test_mode)
        self.on_fault: OnFault = on_fault
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.at_hand: dict[str, Any] = {}
        self._table: RecordTable | None = None
        self._told: set[str] = set()
        self._damaged_in_a_row = 0
        self.facts: dict[str, Any] = {**self.FACTS, "label_range": self.label_range, **(facts or {})}
        kwargs.setdefault("serialize_data", False)  # the items are an array as they are
        super().__init__(data_root=str(data_root), pipeline=steps, test_mode=test_mode, data_prefix={}, **kwargs)

    @property
    def name(self) -> str:
        """Name of this part, for messages."""
        return f"{type(self).__name__}({getattr(self, 'split', '')})"

    @property
    def raw_class(self) -> type["AffectDataset"]:
        """The class that gave the records their keys: this one, but for a store."""
        return type(self)

    def keys(self) -> Sequence[str]:
        """Return the names of the clips, each unique, after checking whatever concerns the set as a whole.

        Raises:
            NotImplementedError: Always; subclasses replace it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement keys.")

    def scan(self, key: str) -> Scan:
        """Read one clip; faults of its files are collected (see `attempt`), not raised.

        Args:
            key: One of `keys`.

        Raises:
            NotImplementedError: Always; subclasses replace it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement scan.")

    def claims(self, record: Record) -> Iterable[Claim]:
        """Name what belongs to a record and to no other (see `hocp_mm.datasets.records.twins`)."""
        del record
        return ()

    def partition(self) -> Partition | None:
        """Return the parts of the set, as `keys` takes one of them; None if nothing says which there are."""
        return None

    @staticmethod
    def groups_of(key: str) -> dict[str, str]:
        """Name the groups that a clip belongs to, as far as its key tells; a test scores each of them by itself.

        Args:
            key: One of `keys`.

        Returns:
            Name of the group by kind, a word: ``{"culture": "C2"}``. The subject is a kind without being named here.
        """
        del key
        return {}

    def report(self, table: RecordTable, notes: Mapping[str, Any]) -> None:
        """Log what was found.

        Args:
            table: The records that are used.
            notes: What reading noted of each clip (see `Scan`).
        """
        del notes
        frames = f"{len(table)} records, {len(table.affect)} frames, {affect_ranges(table.affect[table.valid])}"
        print_log(f"{self.name}: {frames}", logger="current")

    def warn(self, text: str) -> None:
        """Log what is no fault and yet to be known, and keep it for the check of the data."""
        self.notes.append(f"{self.name}: {text}")
        print_log(visible(self.notes[-1]), logger="current", level=logging.WARNING)

    def load_records(self) -> RecordTable:
        """Read and check all clips; one `DataError` names all faults of the set.

        Returns:
            The records that can be used, in the order of `keys`.

        Raises:
            DataError: If there are faults and ``on_fault`` is ``"error"``, nothing can be used, `keys` repeats one, or
                somebody is in two parts.
        """
        try:
            reading = self.read()
            self.settle_faults(reading.faults, len(reading.table), reading.left_out)
            self.report(reading.table, reading.notes)
        finally:
            self.at_hand = {}
        return reading.table

    def read(self) -> Reading:
        """Read all clips; only a set that is too large to be scanned clip by clip has a reading of its own."""
        keys = self.keys()
        if partition := self.partition():
            check_no_leak(*partition)
        if len(set(keys)) < len(keys):
            twice = next(key for key, count in Counter(keys).items() if count > 1)
            raise DataError(f"{self.name}: a clip must be named once, got {twice!r} more than once.")
        scans: dict[str, Scan] = {}
        with ThreadPoolExecutor(max_workers=min(_THREADS, 2 * (os.cpu_count() or 1))) as pool:
            for key, scan in zip(keys, pool.map(self.scan, keys), strict=True):
                scans[key] = scan
                if len(scans) % _TOLD_EVERY == 0:
                    print_log(f"{self.name}: {len(scans)} of {len(keys)} clips checked", logger="current")
        faults = [fault for scan in scans.values() for fault in scan.faults]
        records = without_twins(_sound(scans, faults), faults, self.claims)
        used = {record.key for record in records}
        left_out = [key for key in keys if key not in used]
        return Reading(RecordTable.of(records), faults, left_out, {key: scan.notes for key, scan in scans.items()})

    def load_videos(self) -> list[dict[str, Any]]:
        """Read and check all clips, and return each as it enters a pipeline (see `Record`)."""
        return [record.results() for record in self.load_records()]

    def record_options(self) -> dict[str, Any]:
        """Return the values of ``RECORD_OPTIONS``, of types that JSON knows."""
        values = {name: getattr(self, name) for name in self.RECORD_OPTIONS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def settle_faults(self, faults: Sequence[Fault], usable: int, left_out: Sequence[str] = ()) -> None:
        """Raise all faults together or, with ``on_fault="skip"``, name them in a warning and keep them.

        Args:
            faults: What is wrong.
            usable: Number of videos that are left to use.
            left_out: Names of the videos that are not.

        Raises:
            DataError: If there are faults and ``on_fault`` is ``"error"``, or nothing is left.
        """
        if self.on_fault == "error":
            raise_faults(self.name, faults)
        self.faults = list(faults)  # before the next error, too: whoever catches it has them one by one
        if usable == 0:
            nothing = Fault(str(self.data_root), f"{self.data_root}: no video can be used", "set")
            raise_faults(self.name, [*faults, nothing])
        if faults:
            print_log(skipped_text(self.name, faults, left_out), logger="current", level=logging.WARNING)

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one sample.

        Args:
            idx: Number of the sample.

        Returns:
            What the pipeline returns, or None for a damaged training clip with ``on_fault="skip"``: mmengine then
            takes another one.

        Raises:
            HOCPError: If the clip is damaged; with ``on_fault="skip"`` only in test mode, or if so many clips are
                damaged in a row that hardly any can be left.
        """
        try:
            packed = super().prepare_data(idx)
            self._damaged_in_a_row = 0
            self._sign(packed)
            return packed
        except HOCPError as error:
            self._damaged_in_a_row += 1
            if self.on_fault == "error" or self.test_mode or self._damaged_in_a_row >= _HOPELESS:
                raise
            if str(error) not in self._told:  # once per data loader worker
                self._told.add(str(error))
                text = f"{type(self).__name__}: clip {len(self._told)} replaced by another: {error}"
                print_log(visible(text), logger="current", level=logging.WARNING)
            return None

    def _sign(self, packed: Any) -> None:
        """Write into a sample which set and groups it is of, and what its classes are called."""
        sample = packed.get("data_samples") if isinstance(packed, dict) else None
        if isinstance(sample, AffectDataSample):
            names = {"source": self.facts.get("dataset_type"), "expressions": self.facts.get("expressions")}
            names["groups"] = self.raw_class.groups_of(sample.video)
            sample.set_metainfo({name: value for name, value in names.items() if value})

    @property
    def table(self) -> RecordTable:
        """All records; samples point into it."""
        assert self._table is not None, "load_data_list makes it"
        return self._table

    def select(self) -> NDArray[np.int32]:
        """Read the records into `table`, and return the numbers of those to sample from."""
        self._table = self.load_records()
        return np.arange(len(self._table), dtype=np.int32)

    def load_data_list(self) -> Sequence[dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return one small item per clip or window; the records themselves are kept aside, once."""
        rows = self.select()
        if not self.test_mode:
            return SampleItems(np.repeat(rows, self.clips_per_video), None)
        starts = self._window_starts(rows)
        rows = np.repeat(rows, [len(found) for found in starts])
        return SampleItems(rows, np.array([start for found in starts for start in found], dtype=np.int32))

    def _window_starts(self, rows: NDArray[np.int32]) -> list[list[int]]:
        """Return the windows of some records; of images or clips that are alike they are laid once."""
        shape = (int(self.windows["clip_len"]), int(self.windows["stride"]))
        interval, fps = self._spacing
        if fps is None:
            lengths = self.table.num_frames[rows].tolist()
            known = {length: window_starts(length, *shape, interval) for length in set(lengths)}
            return [known[length] for length in lengths]
        records = [self.table[row] for row in rows.tolist()]
        spacing = [clip_ticks(record.fps, fps, record.times, record.key) for record in records]
        return [
            window_starts(record.num_frames, *shape, own, ticks)
            for record, (own, ticks) in zip(records, spacing, strict=True)
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a fresh copy of the record that sample ``idx`` is taken from, as a pipeline takes it."""
        item = super().get_data_info(idx)
        return {**self.table[item.pop("row")].results(), **item}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the expression of sample ``idx``, -1 for none, for mmengine's ``ClassBalancedDataset``."""
        row = super().get_data_info(idx)["row"]  # first: it loads a set that was built with lazy_init
        return [max(-1, int(self.table.expressions[row]))]

    def _check_sampling(self, steps: Sequence[Any], test_mode: bool) -> None:
        """Refuse a pipeline whose clips would not be the windows that cover every frame."""
        name = type(self).__name__
        if unknown := set(self.windows) - {"clip_len", "stride", "frame_interval", "fps"}:
            raise ValueError(f"{name}: windows takes clip_len, stride, frame_interval and fps, got {sorted(unknown)}.")
        if (fps := self.windows.get("fps")) is not None:
            require_rate(f"{name}: windows", fps)
        numbers: dict[str, Any] = {key: value for key, value in self.windows.items() if key != "fps"}
        if numbers:
            window_starts(1, **numbers)  # complains about them
        sample = next((step for step in steps if isinstance(step, SampleClip)), None)
        if sample is not None and not {"frame_interval", "fps"} & set(self.windows):
            self._spacing = (sample.frame_interval, sample.fps)
        else:
            self._spacing = (self.windows.get("frame_interval", 1), self.windows.get("fps"))
        wanted = (self.windows.get("clip_len"), *self._spacing)
        for step in steps:
            if not isinstance(step, SampleClip):
                continue
            if test_mode != (step.mode == "window"):
                raise ValueError(f"{name}: test_mode={test_mode} contradicts {step!r}.")
            if test_mode and (step.clip_len, step.frame_interval, step.fps) != wanted:
                raise ValueError(f"{name}: windows={self.windows} must agree with {step!r}.")


def _sound(scans: Mapping[str, Scan], faults: list[Fault]) -> list[Record]:
    """Return the records that can stand in a table; ``faults`` takes what is wrong with the others."""
    sound: list[Record] = []
    for key, record in ((key, scan.record) for key, scan in scans.items() if scan.record is not None):
        text = record.contradiction() if record.key == key else f"its key must be {key!r}, got {record.key!r}"
        if text:
            faults.append(Fault(record.filename, f"{record.filename}: {key}: {text}.", "record"))
        else:
            sound.append(record)
    return sound


def scale_labels(
    values: NDArray[np.floating], label_range: tuple[float, float], path: Any, first_line: int = 1
) -> NDArray[np.float32]:
    """Map labels linearly from ``label_range`` to [-1, 1].

    Args:
        values: Labels of one dimension in annotation units, ``[F]``.
        label_range: Lowest and highest value of the scale.
        path: File that they come from, for the message.
        first_line: Line of the first value in it.

    Returns:
        Labels, float32 ``[F]``; the very same numbers for the range (-1, 1).

    Raises:
        DataError: If a value lies outside the range.
    """
    low, high = label_range
    outside = (values < low) | (values > high)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{path}: labels must lie in label_range ({low:g}, {high:g}), but line {first_line + row} has "
            f"{values[row]:g}; the file spans {values.min():g} to {values.max():g}."
        )
    if (low, high) == (-1.0, 1.0):
        return values.astype(np.float32)
    return (2 * (values - low) / (high - low) - 1).astype(np.float32)


def require_known(where: str, **options: tuple[object, Collection[str]]) -> None:
    """Refuse words that an option does not know.

    Args:
        where: Class that takes them.
        **options: Value of each option, and what it knows.

    Raises:
        ValueError: Names the option, what it knows and what it got.
    """
    for name, (value, known) in options.items():
        if value not in tuple(known):  # which asks for no hash
            raise ValueError(f"{where}: {name} must be one of {', '.join(known)}, got {value!r}.")


def affect_ranges(affect: NDArray[np.float32]) -> str:
    """Return the ranges of labels ``[F, 2]`` as text."""
    (v_low, a_low), (v_high, a_high) = affect.min(axis=0), affect.max(axis=0)
    return f"valence {v_low:.2f} to {v_high:.2f}, arousal {a_low:.2f} to {a_high:.2f}"
