"""Every file of every data set of a config, read once before training: all faults, each with its file and kind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from hocp_mm.data_check.overlap import PartContent, leaks
from hocp_mm.data_check.parts import BuiltPart, PartConfig, build_part, part_configs, samples_by_record
from hocp_mm.data_check.reading import Reading, check_clip, check_record, read_record
from hocp_mm.data_check.report import DataReport, PartReport, PartStatistics
from hocp_mm.datasets import AffectDataset, check_image, probe_video
from hocp_mm.datasets.records.faults import Fault
from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.transforms import LoadFaceClip
from hocp_mm.errors import HOCPError
from hocp_mm.system.isolation import IsolatedPool, Outcome, Task
from hocp_mm.system.parallel import Progress, cpu_cores

_VIDEOS = (".avi", ".mp4", ".mkv", ".mov", ".webm")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def suspect_files(root: str | Path, pool: IsolatedPool, seconds: float) -> list[Fault]:
    """Open every picture and video below a folder in a process that may be lost.

    Args:
        root: Folder of the data set.
        pool: The processes.
        seconds: Time for each file.

    Returns:
        One fault, of kind ``"crash"``, per file that took its process down or did not end.
    """
    files = sorted(file for file in Path(root).rglob("*") if file.suffix.lower() in (*_VIDEOS, *_IMAGES))
    tasks: list[Task] = [(open_file, (str(file),), seconds) for file in files]
    faults: list[Fault] = []
    for number, outcome in pool.run(tasks):
        if outcome.failure:
            faults.append(Fault(files[number], f"{files[number]}: opening it {outcome.failure}.", "crash"))
    return sorted(faults)


def open_file(path: str) -> None:
    """Open a file as the data sets do; what they would refuse by themselves is not asked for here."""
    try:
        (probe_video if Path(path).suffix.lower() in _VIDEOS else check_image)(path)
    except HOCPError:
        return


@dataclass(frozen=True)
class TimeLimits:
    """Seconds after which a file counts as endless.

    Attributes:
        build: To build one data set; it may look at hundreds of thousands of files.
        record: To read one record, and besides
        frame: for each of its frames.
    """

    build: float = 7200.0
    record: float = 120.0
    frame: float = 0.5


def check_data(
    cfg: Config,
    *,
    splits: Sequence[str] = ("train", "val", "test"),
    workers: int | None = None,
    deep: bool = True,
    progress: Progress | None = None,
    limits: TimeLimits | None = None,
) -> DataReport:
    """Check the data sets of a config's loaders.

    Each is built with ``on_fault="skip"``, whatever the config says, so that all its faults are collected. Then every
    record is compared with its contract (see `AffectDataset`), and people and files are looked for that are in two
    parts. ``deep`` also decodes every frame once, compares random access to videos with sequential reading, and sends
    the first clip of each part through its pipeline.

    A file that crashes a decoder, or never ends, becomes a fault of kind ``"crash"``: all files are read in processes
    of their own.

    Args:
        cfg: Config with ``{train,val,test}_dataloader``. Not changed.
        splits: Loaders to check.
        workers: Processes; None = one per CPU core. 0 = this process, without protection against crashes and endless
            files.
        deep: Read the files of all records, too.
        progress: Called with the number of records that were read, and of all.
        limits: When a file counts as endless.

    Returns:
        The account of all parts.

    Raises:
        HOCPError: If the config has no such loader, or an option of a data set cannot be used.
        ValueError: If ``workers`` is negative.
    """
    limits = limits or TimeLimits()
    workers = cpu_cores() if workers is None else workers
    configs = part_configs(cfg, splits)
    sources = [next(n for n, other in enumerate(configs) if _same(other, part)) for part in configs]
    distinct = sorted(set(sources))
    with IsolatedPool(workers) as pool:
        built = dict(zip(distinct, _build([configs[n] for n in distinct], pool, limits), strict=True))
        checks = {n: _PartCheck(configs[n], built[n]) for n in distinct}
        for name, faults in leaks([check.content for check in checks.values()]).items():
            next(check for check in checks.values() if check.config.name == name).faults += faults
        if deep:
            _read_all(list(checks.values()), pool, limits, progress)
    reports = [checks[n].report() for n in sources]
    return DataReport(
        tuple(
            report if n == source else replace(report, name=configs[n].name, faults=(), notes=(), same_as=report.name)
            for n, (source, report) in enumerate(zip(sources, reports, strict=True))
        )
    )


def _same(one: PartConfig, other: PartConfig) -> bool:
    """Tell whether one check serves both: validation may be read again for test, but not for training (a leak)."""
    return one.config == other.config and (one.split == "train") == (other.split == "train")


class _PartCheck:
    """What becomes known about one part."""

    def __init__(self, config: PartConfig, built: BuiltPart) -> None:
        self.config, self.built = config, built
        self.dataset = built.dataset
        # The same people, whether they are read from a set or from a store of its crops.
        kind = None if self.dataset is None else self.dataset.facts.get("dataset_type")
        self.content = PartContent(config.name, config.split, str(kind or config.type_name))
        self.statistics = PartStatistics()
        self.faults: list[Fault] = list(built.faults)
        self.samples: dict[int, int] = {}  # one of each record, by its row
        self.readings: dict[int, Reading] = {}
        if self.dataset is None:
            return
        classes = self.dataset.facts.get("expressions")
        self.samples = {row: group[0] for row, group in samples_by_record(self.dataset).items()}
        for record in self.records():
            self.statistics.add(record)
            self.faults += check_record(record, None if classes is None else len(classes))
            self.faults += self.content.add(record)

    def records(self) -> Iterator[Record]:
        """Yield the records, one in memory at a time."""
        assert self.dataset is not None
        for row in self.samples:
            yield self.dataset.table[row]

    def report(self) -> PartReport:
        """Return the account."""
        ways = [reading.way for reading in self.readings.values() if reading.way]
        found = [fault for number in sorted(self.readings) for fault in self.readings[number].faults]
        return self.statistics.report(
            name=self.config.name,
            dataset=self.config.type_name,
            clips=0 if self.dataset is None else len(self.dataset),
            label_range=None if self.dataset is None else self.dataset.label_range,
            decoders={way: ways.count(way) for way in dict.fromkeys(ways)},
            variable=sum(reading.variable for reading in self.readings.values()),
            faults=(*self.faults, *found),
            notes=self.built.notes,
        )


def _build(configs: list[PartConfig], pool: IsolatedPool, limits: TimeLimits) -> list[BuiltPart]:
    """Build the data sets, each in a process that may be lost."""
    tasks: list[Task] = [(build_part, (config,), limits.build) for config in configs]
    outcomes = dict(pool.run(tasks))
    built: list[BuiltPart] = []
    for number, config in enumerate(configs):
        outcome: Outcome = outcomes[number]
        if outcome.failure:
            text = (
                f"{config.root}: the {config.type_name} of {config.name} cannot be read, its process {outcome.failure}."
            )
            faults = suspect_files(config.root, pool, limits.record)
            built.append(BuiltPart(None, (Fault(config.root, text, "set"), *faults)))
            continue
        if outcome.value.refusal:
            raise HOCPError(f"check: {config.split}_dataloader: {outcome.value.refusal}")
        built.append(outcome.value)
    return built


def _read_all(checks: list[_PartCheck], pool: IsolatedPool, limits: TimeLimits, progress: Progress | None) -> None:
    """Read the files of all records and send one clip of each part through its pipeline."""
    total = sum(len(check.samples) for check in checks)
    places: list[tuple[_PartCheck, int, str, str]] = []
    done = 0
    for number, outcome in pool.run(_reading_tasks(checks, places, limits)):
        check, place, file, key = places[number]
        if outcome.failure:
            text = f"{file}: reading {key} {outcome.failure}."
            check.readings[place] = Reading("", (Fault(file, text, "crash"),))
        else:
            check.readings[place] = outcome.value
        if place < len(check.samples):
            done += 1
            if progress is not None:
                progress(done, total)


def _reading_tasks(
    checks: list[_PartCheck], places: list[tuple[_PartCheck, int, str, str]], limits: TimeLimits
) -> Iterator[Task]:
    """Yield tasks as they are needed, and note in ``places`` what each is about."""
    for check in checks:
        dataset: AffectDataset | None = check.dataset
        if dataset is None:
            continue
        steps = dataset.pipeline.transforms
        decoder = next((step.decoder for step in steps if isinstance(step, LoadFaceClip)), "auto")
        for place, record in enumerate(check.records()):
            seconds = limits.record + limits.frame * record.num_frames
            places.append((check, place, record.filename, record.key))
            yield read_record, (record, decoder), seconds
            if place == 0:
                places.append((check, len(check.samples), record.filename, record.key))
                sample = next(iter(check.samples.values()))
                yield check_clip, (dataset.pipeline, dataset.get_data_info(sample)), seconds
