"""Write a synthetic set of talking faces in the layout of a real data set.

python tools/prepare/synthetic.py sewa data/synthetic_sewa --subjects 24 4 8 --frames 150
"""

import argparse
import sys
import time
from collections.abc import Sequence

from hocp_mm.cli import run
from hocp_mm.datasets.synthetic import SyntheticSewaSpec, write_synthetic_sewa


class ProgressLine:
    """Show how many clips are done: in place on a terminal, else as a line every few seconds.

    Args:
        seconds: Least time between two lines where the output is no terminal.
    """

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._start = time.monotonic()
        self._next = self._start

    def __call__(self, done: int, total: int) -> None:
        """Show the state.

        Args:
            done: Finished clips.
            total: All clips.
        """
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if not terminal and now < self._next and done < total:
            return
        self._next = now + self._seconds
        end = "\n" if done == total or not terminal else ""
        text = f"synthetic set: {done}/{total} clips, {now - self._start:.0f} s"
        print(f"\r{text}" if terminal else text, end=end, file=sys.stderr, flush=True)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: Arguments; ``None`` = those of the process.

    Returns:
        The options, checked.
    """
    default = SyntheticSewaSpec()
    parser = argparse.ArgumentParser(description="Write a synthetic set of talking faces in a real set's layout.")
    layouts = parser.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    sewa = layouts.add_parser(
        "sewa", help="SEWA DB v0.2", formatter_class=argparse.ArgumentDefaultsHelpFormatter, description="SEWA DB v0.2"
    )
    sewa.add_argument("out", metavar="OUT", help="folder of the set; new or empty")
    sewa.add_argument(
        "--subjects", type=int, nargs=3, default=default.subjects, metavar=("TRAIN", "VAL", "TEST"), help="people"
    )
    sewa.add_argument("--clips", type=int, default=default.clips_per_subject, help="clips of each person")
    sewa.add_argument("--frames", type=int, default=default.frames, help="frames of each clip, 25 a second")
    sewa.add_argument("--seed", type=int, default=default.seed, help="seed of everything")
    sewa.add_argument(
        "--motion-share", type=float, default=default.motion_share, help="share of arousal that only motion shows"
    )
    sewa.add_argument("--workers", type=int, help="processes; one per CPU core if not given")
    sewa.add_argument("--overwrite", action="store_true", help="replace a synthetic set made with other numbers")
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        sewa.error(f"argument --workers: must be at least 1, got {args.workers}")
    try:
        SyntheticSewaSpec(tuple(args.subjects), args.clips, args.frames, args.seed, args.motion_share)
    except ValueError as error:
        sewa.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Arguments; ``None`` = those of the process.
    """
    args = parse_args(argv)
    written = write_synthetic_sewa(
        args.out,
        subjects=args.subjects,
        clips_per_subject=args.clips,
        frames=args.frames,
        seed=args.seed,
        motion_share=args.motion_share,
        workers=args.workers,
        progress=ProgressLine(),
        overwrite=args.overwrite,
    )
    clips = sum(args.subjects) * args.clips
    state = "written" if written else "already there with these numbers, nothing done"
    print(f"{args.out}: {clips} clips of {args.frames} frames, {state}.")


if __name__ == "__main__":
    run(main)
