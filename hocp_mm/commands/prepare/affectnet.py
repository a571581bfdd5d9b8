"""Prepare AffectNet for training: face crops and labels of all images in one store, in packs of 1000.

hocp prepare affectnet data/AffectNet data/affectnet_crops
hocp prepare affectnet data/AffectNet2021 data/affectnet2021_crops --release 2021

Ended in the middle, the same command goes on where it was; started again, it does only what has changed. What cannot be
used is left out and named in `<OUT>/report.csv`.
"""

import argparse
from collections.abc import Sequence

from hocp_mm.datasets.affectnet.dataset import AffectNetDataset
from hocp_mm.datasets.store.command import RawParts, labels_options, run_store_command, store_parser

CLASSES = {"8": 8, "7": 7, "emonet5": "emonet5", "va_only": "va_only"}


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = store_parser(__doc__, "folder of the set, e.g. data/AffectNet")
    parser.add_argument("--release", choices=("2017", "2021"), default="2017", help="layout, default: 2017")
    parser.add_argument("--classes", choices=tuple(CLASSES), default="8", help="expressions to keep, default: 8")
    parser.add_argument(
        "--faces",
        choices=("inner", "landmarks", "box", "frame"),
        help="what is cropped by, default: inner (landmarks without the jaw) for 2017, frame for 2021",
    )
    parser.add_argument("--emonet-clean", action="store_true", help="keep only labels that agree with each other")
    parser.add_argument("--image-folder", help="folder that the paths in the csv files are relative to")
    labels_options(parser, (-1, 1))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, write the store and print what it holds."""
    parser = make_parser()
    args = parser.parse_args(argv)
    faces = args.faces or ("inner" if args.release == "2017" else "frame")
    run_store_command(parser, args, build, faces, "configs/hocp_affectnet.py")


def build(args: argparse.Namespace, faces: str) -> RawParts:
    """Return the raw data sets of the official parts."""
    options = {
        "release": args.release,
        "classes": CLASSES[args.classes],
        "faces": faces,
        "emonet_clean": args.emonet_clean,
        "image_folder": args.image_folder,
        "label_range": tuple(args.label_range),
        "on_fault": "skip",
        "verify_images": False,  # every image is read anyway
        "lazy_init": True,
    }
    return RawParts({part: AffectNetDataset(str(args.root), part, **options) for part in ("train", "val")})
