"""Prepare AFEW-VA for training: face crops and labels of all clips in one store, with its folds.

hocp prepare afew_va data/AFEW-VA data/afew_va_crops

Ended in the middle, the same command goes on where it was; started again, it does only what has changed. What cannot be
used is left out and named in `<OUT>/report.csv`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hocp_mm.datasets.afew_va.dataset import AFEWVADataset
from hocp_mm.datasets.afew_va.files import AFEW_VA_RANGE
from hocp_mm.datasets.splits import count_folds, read_fold, write_split_files
from hocp_mm.datasets.store.command import RawParts, fraction, labels_options, run_store_command, store_parser
from hocp_mm.errors import MissingDataError


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = store_parser(__doc__, "folder that holds one folder per clip, e.g. data/AFEW-VA")
    parser.add_argument("--faces", choices=("inner", "landmarks", "frame"), default="inner", help="what is cropped by")
    parser.add_argument(
        "--pixel-aspect", type=fraction, default=4 / 3, help="width of a pixel over its height, default: 4/3"
    )
    parser.add_argument("--fps", type=float, default=25.0, help="frames per second, default: 25")
    labels_options(parser, AFEW_VA_RANGE)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, write the store and print what it holds."""
    parser = make_parser()
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        run_store_command(
            parser, args, lambda args, faces: build(args, faces, Path(folder)), args.faces, "configs/hocp_afew_va.py"
        )


def build(args: argparse.Namespace, faces: str, folder: Path) -> RawParts:
    """Return one raw data set of the clips of all folds, as every fold holds them.

    Raises:
        MissingDataError: If there are no folds.
    """
    if not args.root.is_dir():
        raise MissingDataError(f"{args.root}: no such folder; name the one that holds the data set.")
    count = count_folds(args.root)
    if count == 0:
        raise MissingDataError(
            f"{args.root / 'folds'}: must hold folds; `python tools/prepare/split_afew_va.py {args.root}` writes them."
        )
    folds = [read_fold(args.root, fold) for fold in range(count)]
    clips = sorted({clip for parts in folds for clips in parts.values() for clip in clips})
    (file,) = write_split_files(folder, {"all": clips}, seed=None)
    dataset = AFEWVADataset(
        str(args.root),
        str(file),
        faces=faces,  # pyright: ignore[reportArgumentType]
        pixel_aspect=args.pixel_aspect,
        fps=args.fps,
        label_range=tuple(args.label_range),
        on_fault="skip",
        lazy_init=True,
    )
    places = {f"folds/fold_{fold}": args.root / "folds" / f"fold_{fold}" for fold in range(count)}
    return RawParts({"all": dataset}, places, args.pixel_aspect)
