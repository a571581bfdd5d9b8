"""Let a network label videos, for another to learn from: ``hocp label FOLDER --checkpoint FILE --out LABELS``.

Each video of the folder, and of the folders in it, gets ``LABELS/<name>.csv``: valence and arousal of every frame, the
mean of what the network says of the picture and of its mirror image, smoothed over time by what agrees, and how far it
does, as a confidence from 0 to 1. The same command goes on after a stop. ``configs/hocp_distill.py`` learns from them.
"""

import argparse
from pathlib import Path

from hocp_mm.commands import options
from hocp_mm.errors import HOCPError, SomeFailedError
from hocp_mm.system.cli import ProgressLine, importing, positive
from hocp_mm.system.files import require_writable
from hocp_mm.system.refusals import visible


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of videos")
    options.add_network(parser, "weights of the teacher, saved by hocp train")
    parser.add_argument("--out", type=Path, required=True, metavar="LABELS", help="folder for the labels")
    options.add_detector(parser)
    parser.add_argument(
        "--smooth",
        type=options.seconds,
        default=0.2,
        metavar="SECONDS",
        help="standard deviation of the Gaussian that labels are smoothed by; 0 for none (default: %(default)g)",
    )
    parser.add_argument(
        "--tolerance",
        type=options.seconds,
        default=0.1,
        metavar="UNITS",
        help="disagreement with mirror image and neighbours at which half a frame counts (default: %(default)g)",
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="windows per forward pass")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.tolerance == 0:
        parser.error("argument --tolerance: must be above 0, got 0")
    return args


def main(argv: list[str] | None = None) -> None:
    """Label one video after the other, then name how many failed."""
    args = parse_args(argv)
    require_writable(args.out, "--out")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    with importing():
        from hocp_mm import compat

        compat.apply(training=False)
        from hocp_mm.apis import Teacher, find_videos, label_folder

        _, others = find_videos(args.folder)
        teacher = Teacher(args.checkpoint, args.config, args.device, args.smooth, args.tolerance, args.batch_size)
    faces = options.look_for(args)
    if others:
        text = f"{len(others)} left out, no videos by their names or links to folders, the first one: {others[0]}"
        print(visible(f"{args.folder}: {text}"), flush=True)
    failed: list[HOCPError] = []
    count = 0
    progress = ProgressLine("", "frames", leave=False).stage
    for video, outcome in label_folder(teacher, args.folder, args.out, faces, progress):
        count += 1
        if isinstance(outcome, HOCPError):
            failed.append(outcome)
            print(f"failed: {visible(str(outcome))}", flush=True)
        else:
            print(visible(f"{video}: {outcome}"), flush=True)
    if failed:
        kind = SomeFailedError if len(failed) < count else HOCPError
        raise kind(f"FOLDER: {len(failed)} of {count} failed (see above), the first one: {failed[0]}")
