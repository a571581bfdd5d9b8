"""Prepare SEWA DB v0.2 for training: face crops and labels of all segments in one store.

hocp prepare sewa data/SEWAv02 data/sewa_crops
hocp prepare sewa data/SEWAv02 data/sewa_crops --detector yunet --detector-model yunet.onnx

Ended in the middle, the same command goes on where it was; started again, it does only what has changed. What cannot be
used is left out and named in `<OUT>/report.csv`.
"""

import argparse
from collections.abc import Sequence

from hocp_mm.datasets.sewa.dataset import SEWADataset
from hocp_mm.datasets.store.command import RawParts, find_splits, labels_options, run_store_command, store_parser


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = store_parser(__doc__, "folder that holds one folder per segment, e.g. data/SEWAv02")
    parser.add_argument(
        "--labels",
        choices=("V", "A", "AV"),
        default="V",
        help="what the annotators had: video, audio, both; default: V",
    )
    parser.add_argument(
        "--faces", choices=("landmarks", "given", "frame"), default="landmarks", help="what is cropped by"
    )
    parser.add_argument("--boxes-file", help="JSON of face boxes, below ROOT or absolute")
    parser.add_argument("--length-tolerance", type=int, default=0, help="frames by which labels and video may differ")
    labels_options(parser, (-1, 1))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, write the store and print what it holds."""
    parser = make_parser()
    args = parser.parse_args(argv)
    run_store_command(parser, args, build, args.faces, "configs/hocp_sewa.py")


def build(args: argparse.Namespace, faces: str) -> RawParts:
    """Return the raw data sets of the parts that name a segment."""
    files = find_splits(args.root, "tools/prepare/split_sewa.py")
    options = {
        "labels": args.labels,
        "faces": faces,
        "boxes_file": args.boxes_file if faces != "frame" else None,
        "length_tolerance": args.length_tolerance,
        "label_range": tuple(args.label_range),
        "on_fault": "skip",
        "lazy_init": True,
    }
    return RawParts(
        {part: SEWADataset(str(args.root), part, **options) for part in files}, {"splits": args.root / "splits"}
    )
