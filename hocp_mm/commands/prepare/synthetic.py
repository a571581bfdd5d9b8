"""Write a synthetic set of talking faces in the layout of a real data set.

hocp prepare synthetic sewa data/synthetic_sewa --subjects 24 4 8 --frames 150
hocp prepare synthetic afew_va data/synthetic_afew_va --actors 20 --clips 2
hocp prepare synthetic affectnet data/synthetic_affectnet --release 2017
hocp prepare synthetic affwild2 data/synthetic_affwild2 --videos 24 6
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hocp_mm.synthetic import (
    SyntheticAfewVaSpec,
    SyntheticAffectNetSpec,
    SyntheticAffWild2Spec,
    SyntheticSewaSpec,
    write_synthetic_afew_va,
    write_synthetic_affectnet,
    write_synthetic_affwild2,
    write_synthetic_sewa,
)
from hocp_mm.system.cli import ProgressLine
from hocp_mm.system.files import require_writable


class Layout(NamedTuple):
    """How the command writes one layout.

    Attributes:
        title: The real set.
        default: Its numbers; their names are those of the options.
        add_options: Adds the options that no other layout has.
        read: Makes the numbers of the parsed options.
        write: Writes a set.
        size: Says how large a set is.
        shared: Which of ``--clips``, ``--frames`` and ``--motion-share`` it has.
    """

    title: str
    default: Any
    add_options: Callable[[argparse.ArgumentParser, Any], object]
    read: Callable[[argparse.Namespace], Any]
    write: Callable[..., bool]
    size: Callable[[Any], str]
    shared: Sequence[str] = ("clips", "frames", "motion_share")


def add_sewa_options(parser: argparse.ArgumentParser, default: SyntheticSewaSpec) -> None:
    """Add what only SEWA's layout has."""
    parser.add_argument(
        "--subjects", type=int, nargs=3, default=default.subjects, metavar=("TRAIN", "VAL", "TEST"), help="people"
    )


def add_afew_va_options(parser: argparse.ArgumentParser, default: SyntheticAfewVaSpec) -> None:
    """Add what only AFEW-VA's layout has."""
    parser.add_argument("--actors", type=int, default=default.actors, help="people")
    parser.add_argument(
        "--height", type=int, default=default.height, help="height of the frames; 576 as in the release"
    )


def add_affectnet_options(parser: argparse.ArgumentParser, default: SyntheticAffectNetSpec) -> None:
    """Add what only AffectNet's layouts have."""
    parser.add_argument("--release", choices=("2017", "2021"), default=default.release, help="layout")
    parser.add_argument("--people", type=int, nargs=2, default=default.people, metavar=("TRAIN", "VAL"), help="people")
    parser.add_argument("--images", type=int, default=default.images_per_person, help="pictures of each person")


def add_affwild2_options(parser: argparse.ArgumentParser, default: SyntheticAffWild2Spec) -> None:
    """Add what only Aff-Wild2's layout has."""
    parser.add_argument("--videos", type=int, nargs=2, default=default.videos, metavar=("TRAIN", "VAL"), help="videos")


def write_sewa(root: str, spec: SyntheticSewaSpec, **options: Any) -> bool:
    """Write a set in SEWA's layout."""
    numbers = (spec.subjects, spec.clips_per_subject, spec.frames, spec.seed, spec.motion_share)
    return write_synthetic_sewa(root, *numbers, **options)


LAYOUTS = {
    "sewa": Layout(
        "SEWA DB v0.2",
        SyntheticSewaSpec(),
        add_sewa_options,
        lambda args: SyntheticSewaSpec(tuple(args.subjects), args.clips, args.frames, args.seed, args.motion_share),
        write_sewa,
        lambda spec: f"{sum(spec.subjects) * spec.clips_per_subject} clips of {spec.frames} frames",
    ),
    "afew_va": Layout(
        "AFEW-VA",
        SyntheticAfewVaSpec(),
        add_afew_va_options,
        lambda args: SyntheticAfewVaSpec(
            args.actors, args.clips, args.frames, args.height, args.seed, args.motion_share
        ),
        write_synthetic_afew_va,
        lambda spec: f"{len(spec.clips)} clips of {spec.frames} frames",
    ),
    "affectnet": Layout(
        "AffectNet",
        SyntheticAffectNetSpec(),
        add_affectnet_options,
        lambda args: SyntheticAffectNetSpec(args.release, tuple(args.people), args.images, args.seed),
        write_synthetic_affectnet,
        lambda spec: f"{sum(spec.people) * spec.images_per_person} faces",
        shared=(),
    ),
    "affwild2": Layout(
        "Aff-Wild2",
        SyntheticAffWild2Spec(),
        add_affwild2_options,
        lambda args: SyntheticAffWild2Spec(tuple(args.videos), args.frames, args.seed, args.motion_share),
        write_synthetic_affwild2,
        lambda spec: f"{sum(spec.videos)} videos of {spec.frames} frames",
        shared=("frames", "motion_share"),
    ),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    return _parsers()[0]


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and those of the layouts by name."""
    parser = argparse.ArgumentParser(description="Write a synthetic set of talking faces in a real set's layout.")
    layouts = parser.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    parsers: dict[str, argparse.ArgumentParser] = {}
    for name, layout in LAYOUTS.items():
        parsers[name] = chosen = layouts.add_parser(
            name,
            help=layout.title,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            description=layout.title,
        )
        default = layout.default
        chosen.add_argument("out", metavar="OUT", help="folder of the set; new or empty")
        layout.add_options(chosen, default)
        if "clips" in layout.shared:
            clips = getattr(default, "clips_per_subject", None) or default.clips_per_actor
            chosen.add_argument("--clips", type=int, default=clips, help="clips of each person")
        if "frames" in layout.shared:
            chosen.add_argument("--frames", type=int, default=default.frames, help="frames of each clip, 25 a second")
        chosen.add_argument("--seed", type=int, default=default.seed, help="seed of everything")
        if "motion_share" in layout.shared:
            share = default.motion_share
            chosen.add_argument("--motion-share", type=float, default=share, help="arousal that only motion shows")
        chosen.add_argument("--workers", type=int, help="processes; one per CPU core if not given")
        chosen.add_argument("--overwrite", action="store_true", help="replace a synthetic set made with other numbers")
    return parser, parsers


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Any]:
    """Parse the command line.

    Args:
        argv: Arguments; ``None`` = those of the process.

    Returns:
        The options, and the numbers of the set, checked.
    """
    parser, parsers = _parsers()
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parsers[args.layout].error(f"argument --workers: must be at least 1, got {args.workers}")
    try:
        spec = LAYOUTS[args.layout].read(args)
    except ValueError as error:
        parsers[args.layout].error(str(error))
    return args, spec


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Arguments; ``None`` = those of the process.
    """
    args, spec = parse_args(argv)
    layout = LAYOUTS[args.layout]
    require_writable(Path(args.out).absolute().parent, "OUT")  # the set is moved to its place when it is complete
    written = layout.write(
        args.out, spec, workers=args.workers, progress=ProgressLine("synthetic set", "clips"), overwrite=args.overwrite
    )
    state = "written" if written else "already there with these numbers, nothing done"
    print(f"{args.out}: {layout.size(spec)}, {state}.")
