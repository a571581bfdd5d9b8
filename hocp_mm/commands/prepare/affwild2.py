"""Prepare Aff-Wild2 for training: the crops of the release and their labels in one store.

hocp prepare affwild2 data/Aff-Wild2 data/affwild2_crops --images cropped_aligned cropped_aligned_new_50_vids

The crops are taken as they are, at the size that the recipe trains with. Ended in the middle, the same command goes on
where it was; started again, it does only what has changed. What cannot be used is left out and named in
`<OUT>/report.csv`.
"""

import argparse
from collections.abc import Sequence

from hocp_mm.datasets.affwild2.dataset import AffWild2Dataset
from hocp_mm.datasets.affwild2.files import SETS
from hocp_mm.datasets.store.command import RawParts, labels_options, run_store_command, store_parser


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = store_parser(__doc__, "folder of the set, e.g. data/Aff-Wild2", size=124, margin=False)
    parser.add_argument("--annotations", help="folder with Train_Set and Validation_Set, where there are several")
    parser.add_argument(
        "--images", nargs="+", default=["cropped_aligned"], help="folders of crops, default: cropped_aligned"
    )
    parser.add_argument("--videos", help="folder of the videos, which state the frame rate and the number of frames")
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second without --videos, default: 30")
    parser.add_argument("--length-tolerance", type=int, default=0, help="frames by which labels and video may differ")
    labels_options(parser, (-1, 1))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, write the store and print what it holds."""
    parser = make_parser()
    args = parser.parse_args(argv)
    run_store_command(parser, args, build, "frame", "configs/hocp_affwild2.py")


def build(args: argparse.Namespace, faces: str) -> RawParts:
    """Return the raw data sets of the official parts."""
    options = {
        "annotations": args.annotations,
        "images": args.images,
        "videos": args.videos,
        "fps": args.fps,
        "length_tolerance": args.length_tolerance,
        "label_range": tuple(args.label_range),
        "on_fault": "skip",
        "lazy_init": True,
    }
    return RawParts({part: AffWild2Dataset(str(args.root), part, **options) for part in SETS})
