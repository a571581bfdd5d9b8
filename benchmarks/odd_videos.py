"""Send every odd file of `tests.material.odd_files` through what reads videos, and write ``docs/videos.md``.

    python -m benchmarks.odd_videos

A further way of reading is a further entry of `CHECKS`, and a column of the page.
"""

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from benchmarks.markdown import table
from hocp_mm import compat
from hocp_mm.apis import AffectInferencer, WatchLog
from hocp_mm.data_check.reading import check_record, read_record
from hocp_mm.datasets import Record, iter_frames, probe_video, video_times
from hocp_mm.errors import DataError, HOCPError
from hocp_mm.system.files import write_text
from hocp_mm.system.refusals import visible
from hocp_mm.visualization import FaceMark, OverlayWriter
from tests.material.odd_files import KINDS, OddFile, faults_of, odd_files, working_folder
from tests.material.tiny_configs import tiny_config, tiny_network, write_checkpoint

PAGE = Path(__file__).parent.parent / "docs" / "videos.md"


class WrongError(Exception):
    """A file was read wrongly, or refused without need; the text says what is wrong."""


def read(file: OddFile) -> None:
    """Probe, time and decode a file, in order and by jumps.

    Raises:
        HOCPError: What the reader says where it refuses it.
        WrongError: If a number, time, shape or colour is wrong, or it should have been refused and was not.
    """
    if faults := faults_of(file):
        raise WrongError("; ".join(faults))
    if file.refused:
        with working_folder(file):
            probe_video(file.path)
            list(iter_frames(file.path))


@lru_cache(maxsize=1)
def _network() -> AffectInferencer:
    compat.apply(training=False)
    with tempfile.TemporaryDirectory() as folder:
        cfg = tiny_config()
        return AffectInferencer(write_checkpoint(Path(folder) / "tiny.pth", cfg, tiny_network(cfg)), device="cpu")


def demonstrate(file: OddFile) -> None:
    """Do what ``tools/demo.py`` does, with whole frames for faces, and read table and overlay again.

    Raises:
        HOCPError: What it says where it refuses the file.
        WrongError: If a row is missing, or a time or the shape of the overlay is another than the file's.
    """
    with working_folder(file), tempfile.TemporaryDirectory() as folder:
        info, overlay = probe_video(file.path), Path(folder) / "overlay.mp4"
        log = WatchLog(file.path, info)
        size = {"width": info.width, "height": info.height, "fps": info.fps, "pixel_aspect": info.pixel_aspect}
        with OverlayWriter(overlay, **size, audio=file.path) as writer:
            for item in _network().watch(file.path, "frame"):
                log.add(item)
                writer.write(item.frame.picture, item.frame.time, [FaceMark(None, item.affect[1])])
        timeline = log.timeline(told_apart=False)
        if file.refused:
            return
        shown = probe_video(overlay)
        faults = {
            "rows": timeline.seen.tolist() == [True] * len(file.times),
            "times": np.allclose(timeline.time_s, file.times, atol=max(file.tolerance, 0.5 / info.fps)),
            "exact times": not info.variable or np.allclose(timeline.time_s, file.times, atol=file.tolerance),
            "overlay's frames": shown.num_frames == len(file.times),
            "overlay's times": np.allclose(video_times(overlay, shown), timeline.time_s, atol=2e-3),
            "overlay's shape": math.isclose(_shape(shown), _shape(info), rel_tol=2 / min(info.width, info.height)),
        }
    if wrong := [name for name, right in faults.items() if not right]:
        raise WrongError(f"the demo's {', '.join(wrong)}")


def _shape(info: object) -> float:
    return info.width * info.pixel_aspect / info.height  # pyright: ignore[reportAttributeAccessIssue]


def check(file: OddFile) -> None:
    """Check a file as ``tools/check_data.py`` checks the record of a data set.

    Raises:
        DataError: The first fault of the record.
        WrongError: If a file that must be read has one.
    """
    with working_folder(file):
        info = probe_video(file.path)
        every = np.ones(info.num_frames, dtype=np.bool_)
        affect = np.zeros((info.num_frames, 2), np.float32)
        times = video_times(file.path, info) if info.variable else None
        record = Record(
            "odd", str(file.path), info.num_frames, info.fps, "", affect, every, None, every,
            pixel_aspect=info.pixel_aspect, times=times,
        )  # fmt: skip
        faults = [*check_record(record), *read_record(record).faults]
    if faults and file.refused:
        raise DataError(str(faults[0]))
    if faults:
        raise WrongError(str(faults[0]))


CHECKS: dict[str, Callable[[OddFile], None]] = {
    "probed, timed, decoded": read,
    "demo": demonstrate,
    "check_data": check,
}
"""Each takes a file, and raises what its reader refuses it with, or a `WrongError`."""


class Outcome(NamedTuple):
    """What became of one file in one check."""

    kind: str
    check: str
    right: bool
    refusal: str = ""


def try_all(files: Sequence[OddFile]) -> list[Outcome]:
    """Send all files through all checks.

    Args:
        files: What to try.

    Returns:
        One outcome for each file and check.
    """
    outcomes = []
    for file in files:
        for name, check in CHECKS.items():
            try:
                check(file)
                outcomes.append(Outcome(file.kind, name, True))
            except HOCPError as error:
                text = str(error).replace(f"{file.path.parent}/", "") if file.path.is_absolute() else str(error)
                outcomes.append(Outcome(file.kind, name, bool(file.refused), text))
            except WrongError as error:
                outcomes.append(Outcome(file.kind, name, False, f"WRONG: {file.path.name}: {error}"))
    return outcomes


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the page.

    Args:
        outcomes: What became of the files.

    Returns:
        Markdown.
    """
    kinds = list(dict.fromkeys(outcome.kind for outcome in outcomes))
    rows, refusals, others = [], [], []
    for kind in kinds:
        what = KINDS[kind].replace("|", "\\|")
        cells = [f"**{kind}**: {what}", str(len(_of(outcomes, kind, next(iter(CHECKS)))))]
        for check in CHECKS:
            mine = _of(outcomes, kind, check)
            counts = Counter("WRONG" if not o.right else "refused" if o.refusal else "right" for o in mine)
            cells.append(", ".join(f"{count} {what}" for what, count in sorted(counts.items(), reverse=True)))
            for outcome in mine:
                text = visible(outcome.refusal).replace("|", "\\|")
                if text and text not in refusals + others:
                    (refusals if outcome.right else others).append(text)
        rows.append(cells)
    files = len(outcomes) // len(CHECKS)
    lines = [
        "# Odd videos",
        "",
        "Written by `python -m benchmarks.odd_videos`; do not edit.",
        "",
        f"{files} small files, made on the fly with PyAV {av.__version__} (`tests/material/odd_files.py`), each with",
        "its truth: the numbers that its pictures show, when they are shown, their size, the shape of a pixel, red and",
        "blue as red and blue. *Right* is all of that, in order and by jumps; *refused* is one clear error for a file",
        "that must be refused. Containers are tried with each codec that they commonly hold, at 8, 12.5, 24, 25,",
        "29.97, 50 and 60 frames per second in turn. *demo*: a row for every frame, at its time, and an overlay of as",
        "many frames, at these times, in this shape. *check_data*: every frame read, random access proven, no fault.",
        "",
        *table(["kind", "files", *CHECKS], rows),
        "",
        "Refusals:",
        "",
        *(f"- {text}" for text in refusals),
    ]
    lines += ["", "Faults:", "", *(f"- {text}" for text in others)] if others else []
    return "\n".join(lines) + "\n"


def _of(outcomes: Sequence[Outcome], kind: str, check: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if (outcome.kind, outcome.check) == (kind, check)]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write (default: %(default)s)")
    args = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = try_all(odd_files(Path(folder)))
    write_text(args.out, page(outcomes))
    wrong = sum(not outcome.right for outcome in outcomes)
    print(f"{args.out}: {len(outcomes)} readings, {wrong} wrong")


if __name__ == "__main__":
    main()
