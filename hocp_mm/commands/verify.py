"""Check that a timm network becomes a video network without loss: ``hocp verify --timm NAME``.

Prints how far every frame is from the 2-D network (0 up to rounding), whether a frame sees what it must not, whether
every parameter gets a gradient, and what the decomposition of the kernels costs. Exits with 1 if a check fails.
"""

import argparse
import sys
from pathlib import Path

from hocp_mm.system.cli import number_or_word, positive
from hocp_mm.system.files import require_writable_file

FAILED = 1
"""Exit code."""


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--timm", metavar="NAME", required=True, help="network of timm")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights; random ones by default")
    parser.add_argument(
        "--rank",
        type=number_or_word,
        default="x1",
        help="components, such as 64, x1, same or error0.1; full for exact kernels (slow); x1 by default",
    )
    parser.add_argument("--temporal-kernel", type=positive, default=3, help="taps in time, 3 by default")
    parser.add_argument("--temporal-init", choices=("central", "last", "uniform"), default="central")
    parser.add_argument("--reparameterize", action="store_true", help="fuse re-parameterisable blocks first")
    parser.add_argument("--frames", type=positive, default=4, help="length of the clip, 4 by default")
    parser.add_argument("--size", type=positive, help="height and width, pixels; the network's own by default")
    parser.add_argument("--in-chans", type=positive, default=3, help="input channels, 3 by default")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="pictures to measure on, for trained weights; noise by default"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of decompositions, random weights and clips")
    parser.add_argument("--verbose", action="store_true", help="name all layers")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers there")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return make_parser().parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build, measure, print."""
    args = parse_args(argv)
    if args.csv is not None:
        require_writable_file(args.csv, "--csv")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm import compat

    compat.apply()
    from hocp_mm.analysis.verification import text, verify_timm, write_csv

    result = verify_timm(
        args.timm,
        args.checkpoint,
        rank=args.rank,
        temporal_kernel=args.temporal_kernel,
        temporal_init=args.temporal_init,
        frames=args.frames,
        size=args.size,
        in_chans=args.in_chans,
        seed=args.seed,
        reparameterize=args.reparameterize,
        images=args.images,
    )
    print(text(result, args.verbose))
    if args.csv is not None:
        print(f"\nwritten to {write_csv(result, args.csv)}")
    if not result.ok:
        sys.exit(FAILED)


def _seed(text: str) -> int:
    if not -(2**63) <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number of 64 bits, got {text}")
    return int(text)
