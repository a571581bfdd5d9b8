"""Send every odd file of `tests.material.odd_files` through what reads videos, and write ``docs/videos.md``.

    python -m benchmarks.odd_videos

A further way of reading is a further entry of `CHECKS`, and a column of the page.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import av

from benchmarks.markdown import table
from hocp_mm.errors import HOCPError
from hocp_mm.system.files import write_text
from hocp_mm.system.refusals import visible
from tests.material.odd_files import KINDS, OddFile, faults_of, odd_files, working_folder

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
            from hocp_mm.datasets import iter_frames, probe_video

            probe_video(file.path)
            list(iter_frames(file.path))


CHECKS: dict[str, Callable[[OddFile], None]] = {"probed, timed, decoded": read}
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
        "29.97, 50 and 60 frames per second in turn.",
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
