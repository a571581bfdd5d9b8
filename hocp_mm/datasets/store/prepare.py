"""Make a store of face crops from a raw data set: in parallel, resumable, the same bytes whatever happens on the way.

    lock -> header, splits -> packs, each with its facts -> report, header with counts -> index, last of all

A store without ``index.npz`` is not finished. The same call completes it, and makes only those packs again whose
files have changed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

import hocp_mm
from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.datasets.records.dataset import AffectDataset
from hocp_mm.datasets.records.faults import Fault
from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.store.header import HEADER_NAME, StoreHeader, read_header, require_header, write_header
from hocp_mm.datasets.store.index import INDEX_NAME, PACKS, write_index
from hocp_mm.datasets.store.parts import FOLDS, SPLITS, copy_splits, refuse_to_lose, write_official_splits
from hocp_mm.datasets.store.plan import check_records, plan_packs, stored_records, with_unique_keys
from hocp_mm.datasets.store.report import LEFT_OUT, REPORT, count_kinds, report_text
from hocp_mm.datasets.store.task import DetectorChoice, PackJob, PackResult, make_pack, read_facts
from hocp_mm.errors import DataError, HOCPError
from hocp_mm.system.files import LOCK, is_draft, locked, refuse_links, remove_drafts, write_text, writing
from hocp_mm.system.parallel import run_tasks
from hocp_mm.system.refusals import visible

Progress = Callable[[int, int], None]
_PACK_FILES = (".avi", ".npz")


@dataclass(frozen=True)
class Summary:
    """What a preparation ended with.

    Attributes:
        records: Records in the store.
        frames: Their frames.
        pictures: Frames that have a picture.
        faces: Frames with a face.
        num_bytes: Bytes of all packs.
        packs_made: Packs made by this call.
        packs_kept: Packs found ready.
        skipped: Lines of the report by kind.
    """

    records: int
    frames: int
    pictures: int
    faces: int
    num_bytes: int
    packs_made: int
    packs_kept: int
    skipped: dict[str, int]


def prepare_store(
    out: str | Path,
    parts: Mapping[str, AffectDataset],
    settings: CropSettings,
    *,
    split_folders: Mapping[str, str | Path] | None = None,
    detector: DetectorChoice | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    images_per_pack: int = 1000,
    overwrite: bool = False,
) -> Summary:
    """Cut the faces of a raw data set once, and write them as a store (see `hocp_mm.datasets.store`).

    Call it under ``if __name__ == "__main__":`` where ``workers`` is not 1, as processes are started.

    Args:
        out: Folder of the store: new, empty, or one that an earlier call has begun with the same settings.
        parts: Raw data sets of one class and with the same options, built with ``lazy_init=True``; with
            ``on_fault="skip"`` their faults go to the report. A record is in one part.
        settings: How crops are cut and written. ``margin=None`` goes with records without boxes.
        split_folders: Folders with split files by their place in the store (``"splits"``, ``"folds/fold_0"`` …), which
            are copied; None writes ``parts`` themselves as ``splits/<part>.txt``.
        detector: Finds the faces of records without boxes; None takes the boxes of the records.
        workers: Processes; None = one per CPU core, 1 = this process. The bytes are the same.
        progress: Called with the number of finished packs and of all packs.
        images_per_pack: Images in a pack, for data sets of single images.
        overwrite: Replace a store that was prepared with other settings, and its split files even if they were changed
            by hand.

    Returns:
        What the store holds.

    Raises:
        DataError: If the folder holds something else or split files that were changed by hand, is being prepared by
            another process or cannot be written, or nothing can be used.
        ValueError: If an option is out of its range, or the settings do not describe the records.
    """
    out = Path(out)
    if images_per_pack < 1 or not parts:
        raise ValueError(f"prepare_store: needs a part and images_per_pack of 1 or more, got {images_per_pack}.")
    header = _header(parts, settings, split_folders, detector)
    _check_folder(out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        _check_settings(out, header, overwrite)
        if not overwrite:
            refuse_to_lose(out, {place: Path(folder) for place, folder in (split_folders or {}).items()})
        records = with_unique_keys({part: dataset.load_records() for part, dataset in parts.items()})
        check_records(records, settings, detector is not None)
        jobs = plan_packs(records, images_per_pack)
        with writing(out):
            (out / INDEX_NAME).unlink(missing_ok=True)  # from here on the store is not finished
            (out / PACKS).mkdir(exist_ok=True)
            write_header(out, header)
            keys = _write_splits(out, records, split_folders)
        tasks = [(out / PACKS, job, settings, detector) for job in jobs]
        try:
            results = run_tasks(make_pack, tasks, workers, progress)
        except BrokenExecutor as error:
            raise DataError(
                f"{out}: a worker process was ended from outside, perhaps for want of memory; the same command goes on "
                "from here, with fewer workers if need be. If it ends so again, a file crashes its decoder: "
                "tools/check_data.py names it."
            ) from error
        report = [fault for part in parts.values() for fault in part.faults]
        with writing(out):
            return _finish(out, header, jobs, results, report, keys)


def _finish(
    out: Path,
    header: StoreHeader,
    jobs: list[PackJob],
    results: list[PackResult],
    report: list[Fault],
    keys: list[str],
) -> Summary:
    """Write what belongs to all packs together."""
    packs = out / PACKS
    stored = list(stored_records(packs, jobs, results))
    records = [record for record, _ in stored]
    _clean(packs, {Path(record.filename).stem for record in records})
    there = {record.key for record in records}
    text = "a split names this record, but it is not in the store; the lines of its files say why"
    report += [fault for result in results for fault in result.faults]
    report += [Fault(key, text, LEFT_OUT) for key in keys if key not in there]
    write_text(out / REPORT, report_text(report), newline="", errors="surrogateescape", follow=False)
    if not records:
        raise DataError(f"{out}: at least one record must be usable, got none of {len(keys)}; {out / REPORT} says why.")
    summary = _summary(records, results, report)
    counts = {"records": summary.records, "frames": summary.frames, "pictures": summary.pictures}
    write_header(out, replace(header, counts={**counts, "bytes": summary.num_bytes}))
    write_index(out / INDEX_NAME, records, [first for _, first in stored], header.crop)
    return summary


def _header(
    parts: Mapping[str, AffectDataset],
    settings: CropSettings,
    split_folders: Mapping[str, str | Path] | None,
    detector: DetectorChoice | None,
) -> StoreHeader:
    first = next(iter(parts.values()))
    for dataset in parts.values():
        if type(dataset) is not type(first) or dataset.record_options() != first.record_options():
            raise ValueError("prepare_store: all parts must be of one class and have the same options.")
    if detector is not None and settings.margin is None:
        raise ValueError("prepare_store: a detector needs a margin, got margin=None.")
    places = {Path(place).parts[0] for place in split_folders} if split_folders else {SPLITS}
    if places - {SPLITS, FOLDS}:
        raise ValueError(f"prepare_store: split_folders go to {SPLITS} or {FOLDS}, got {sorted(places)}.")
    metainfo = _plain({**first.metainfo, **first.facts}) | ({"face_detector": detector.description} if detector else {})
    return StoreHeader(
        dataset=type(first).__name__,
        metainfo=metainfo,
        record_options=_plain(first.record_options()),
        crop=settings,
        counts={},
        splits=sorted(places),
        package_version=hocp_mm.__version__,
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON gives them back."""
    return json.loads(json.dumps(dict(values)))


def _check_folder(out: Path) -> None:
    """Refuse a folder with something else in it; a store is never mixed with other files.

    Raises:
        DataError: If it is one, or no folder, or its header is none.
        OutputError: If a folder in it is a link: what lies there would be replaced.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out}: a store goes to a folder, got a file.")
    refuse_links(out / PACKS, out / SPLITS, out / FOLDS, *(out / FOLDS).glob("fold_*"))
    content = {file.name for file in out.iterdir() if not is_draft(file)}
    if HEADER_NAME in content:
        require_header(out)
    elif content - {LOCK, PACKS} or not _holds_packs(out / PACKS):
        raise DataError(f"{out}: a store goes to a new or empty folder, got one with other content.")


def _holds_packs(folder: Path) -> bool:
    """Tell whether a folder holds nothing but whole packs of a store."""
    files = [file for file in folder.iterdir() if not is_draft(file)] if folder.is_dir() else []
    return all(file.suffix in _PACK_FILES and _is_pack(folder / file.stem) for file in files)


def _is_pack(place: Path) -> bool:
    """Tell whether both files of a pack are there, by their place without suffix, and one describes the other."""
    pack, facts = (Path(f"{place}{suffix}") for suffix in _PACK_FILES)
    try:
        return pack.is_file() and bool(read_facts(facts)["length"] == pack.stat().st_size)
    except HOCPError:
        return False


def _check_settings(out: Path, header: StoreHeader, overwrite: bool) -> None:
    """Refuse a store of other settings.

    Raises:
        DataError: If it is one, and must not be replaced.
    """
    if overwrite or not (out / HEADER_NAME).exists():
        return
    known = asdict(read_header(out))
    for name, value in asdict(header).items():
        if name in ("counts", "package_version") or _plain({name: known[name]}) == _plain({name: value}):
            continue
        before, now = (v if isinstance(v, dict) else {name: v} for v in (known[name], value))
        differ = [key for key in {**before, **now} if _plain({key: before.get(key)}) != _plain({key: now.get(key)})]
        changes = ", ".join(f"{key} {before.get(key)!r}, now {now.get(key)!r}" for key in differ)
        raise DataError(
            f"{out}: holds a store that was prepared with other settings ({changes}); name another folder, or allow "
            "to replace it (--overwrite)."
        )


def _write_splits(
    out: Path, records: Mapping[str, Sequence[Record]], split_folders: Mapping[str, str | Path] | None
) -> list[str]:
    """Write the split files and return the keys that they name."""
    if split_folders is None:
        named = {part: [record.key for record in found] for part, found in records.items()}
        write_official_splits(out, named)
        return [key for keys in named.values() for key in keys]
    folders = {place: Path(folder) for place, folder in split_folders.items()}
    subjects = {record.key: record.subject for found in records.values() for record in found}
    return copy_splits(out, folders, subjects)


def _clean(packs: Path, used: set[str]) -> None:
    """Remove what earlier calls left: drafts of killed ones, packs of records that are gone; nobody else's files."""
    remove_drafts(packs)
    remove_drafts(packs.parent)
    others = {packs / file.stem for file in packs.iterdir() if file.suffix in _PACK_FILES and file.stem not in used}
    gone = {place for place in others if _is_pack(place)}
    for place in gone:
        for suffix in _PACK_FILES:
            Path(f"{place}{suffix}").unlink()
    for found, fate in ((gone, "removed"), (others - gone, "left, as their files do not say that they are of a store")):
        if found:
            text = f"{packs}: {len(found)} packs that no record uses {fate} ({min(found).name} …)"
            print_log(visible(text), logger="current")


def _summary(records: list[Record], results: list[PackResult], report: list[Fault]) -> Summary:
    return Summary(
        records=len(records),
        frames=sum(record.num_frames for record in records),
        pictures=sum(int((record.pack.sizes > 0).sum()) for record in records if record.pack is not None),
        faces=sum(int(np.count_nonzero(record.face_found)) for record in records),
        num_bytes=sum(Path(file).stat().st_size for file in {record.filename for record in records}),
        packs_made=sum(result.made and result.usable for result in results),
        packs_kept=sum(not result.made for result in results),
        skipped=count_kinds(report),
    )
