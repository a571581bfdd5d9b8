"""Does transduction pay? ``python -m benchmarks.transduction.run --cache FOLDER`` measures and writes the answer.

Runs what is missing in ``transduction.csv``, which gets a line as each run ends, then makes ``transduction.md`` and
``transduction.png`` of it, all in ``benchmarks/results``. Whoever is killed goes on where it was. What depends on the
machine is the time alone; seeds decide the rest, up to rounding.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.transduction import contenders, page, rows, tasks, training
from benchmarks.transduction.contenders import ABLATION, AVERAGE, MAIN, Contender
from benchmarks.transduction.rows import Row
from benchmarks.transduction.tasks import TASKS, Pool
from benchmarks.transduction.training import Schedule
from hocp_mm.errors import DataError
from hocp_mm.system.cli import run
from hocp_mm.system.files import locked
from hocp_mm.system.parallel import Progress, run_tasks

RESULTS = Path(__file__).resolve().parents[1] / "results"
ABLATED = "motion"
"""The task of the ablation."""
SEEDS = 5


class Job(NamedTuple):
    """One run that is to be made."""

    section: str
    task: str
    contender: str
    seed: int


def planned(names: Sequence[str], chosen: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Return all runs of some tasks, contenders and seeds, seed by seed.

    Args:
        names: Of tasks.
        chosen: Names of contenders, of both sections.
        seeds: Seeds.

    Returns:
        The main section of every seed first.
    """
    main = [Job("main", task, name, seed) for seed in seeds for task in names for name in MAIN if name in chosen]
    if ABLATED not in names:
        return main
    return main + [Job("ablation", ABLATED, name, seed) for seed in seeds for name in ABLATION if name in chosen]


def settings(schedule: Schedule) -> str:
    """Return a digest of what all numbers depend on."""
    filmed = [task.filmed for task in TASKS.values()]
    return training.digest(
        (
            asdict(schedule),
            filmed,
            tasks.VERSION,
            contenders.TRUNK,
            contenders.OPTIONS,
            contenders.TAPS,
            contenders.MOTION,
        )
    )


def fill(table: Path, jobs: Sequence[Job], schedule: Schedule, cache: Path, workers: int) -> None:
    """Make the runs that the table lacks.

    Args:
        table: The CSV; each run is appended as it ends.
        jobs: Runs that it is to hold.
        schedule: Steps and rates.
        cache: Folder of videos and image networks.
        workers: Processes of one thread each.

    Raises:
        DataError: If it holds runs with other settings.
    """
    rows.prepare(table)
    there = rows.read_rows(table)
    others = {row.settings for row in there} - {settings(schedule)}
    if others:
        raise DataError(f"{table}: all runs must have the settings {settings(schedule)}, got {sorted(others)}.")
    keys = {row.key for row in there}
    missing = [job for job in jobs if tuple(job) not in keys]
    for name in dict.fromkeys(job.task for job in missing):
        tasks.load_pool(name, cache, workers)
    images = {job: _contender(job).rank for job in missing}
    first = dict.fromkeys((job.task, job.seed, rank) for job, rank in images.items())
    new = [key for key in first if not training.image_file(cache, *key, schedule).is_file()]
    run_tasks(_train_image, [(*key, schedule, cache) for key in new], workers, _progress("image networks"))
    run_tasks(_measure, [(job, table, schedule, cache) for job in missing], workers, _progress("runs"))


def _contender(job: Job) -> Contender:
    return (MAIN if job.section == "main" else ABLATION)[job.contender]


@lru_cache(maxsize=1)
def _pool(name: str, cache: Path) -> Pool:
    return tasks.load_pool(name, cache)


def _train_image(name: str, seed: int, rank: str, schedule: Schedule, cache: Path) -> None:
    torch.set_num_threads(1)
    training.train_image(name, seed, rank, schedule, cache, _pool(name, cache))


def _measure(job: Job, table: Path, schedule: Schedule, cache: Path) -> None:
    torch.set_num_threads(1)
    averaged = job.contender == AVERAGE
    found = training.measure(job.task, _contender(job), averaged, job.seed, schedule, cache, _pool(job.task, cache))
    scores = {
        "_".join((part, *which)): value
        for part, values in (("validation", found.validation), ("test", found.test))
        for which, value in zip((("first",), ("second",), (), ("accuracy",)), values, strict=True)
    }
    cost = {"parameters": found.parameters, "macs": found.macs, "seconds": found.seconds}
    rows.append(table, Row(**job._asdict(), **cost, **scores, settings=settings(schedule)))


def _progress(what: str) -> Progress:
    return lambda done, total: print(f"{what}: {done} of {total}", flush=True)


def main() -> None:
    """Parse the command line, run, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transduction.run", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for videos and image networks")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    everybody = [*MAIN, *ABLATION]
    parser.add_argument("--contenders", nargs="+", choices=everybody, default=everybody, metavar="CONTENDER",
                        help="names as in the tables; all by default")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(SEEDS)), help="0 to 4 by default")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread (default: %(default)s)")
    parser.add_argument("--only-page", action="store_true", help="make the page of the numbers that are there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = args.output / "transduction.csv"
    if not args.only_page:
        args.cache.mkdir(parents=True, exist_ok=True)
        with locked(args.cache):
            fill(table, planned(args.tasks, args.contenders, args.seeds), Schedule(), args.cache, args.workers)
    print(page.write(rows.read_rows(table), args.output))


if __name__ == "__main__":
    run(main)
