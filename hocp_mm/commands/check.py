"""Read all data of a config once and name every fault: ``hocp check configs/hocp_sewa.py``.

Prints one table with a column per part, then the first faults of each kind; ``--csv`` has them all. Exit code 0:
no faults; 1: faults; 2: wrong usage.
"""

import argparse
import sys
from collections.abc import Sequence

from hocp_mm.system.cli import ProgressLine, add_config_options
from hocp_mm.system.files import require_writable_file
from hocp_mm.system.refusals import config_errors

FAULTS_FOUND = 1


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    add_config_options(parser, "train_dataloader.dataset.data_root=data/SEWA")
    parser.add_argument(
        "--splits", nargs="+", choices=["train", "val", "test"], default=["train", "val", "test"], help="parts to check"
    )
    parser.add_argument("--workers", type=int, help="processes; one per CPU core if not given")
    parser.add_argument("--fast", action="store_true", help="look at labels, sizes and splits, but decode no frame")
    parser.add_argument("--csv", metavar="FILE", help="file for all faults: part, kind, file, text")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error(f"argument --workers: must be at least 1, got {args.workers}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check, print the table; exits with 1 if there are faults."""
    args = parse_args(argv)
    if args.csv:
        require_writable_file(args.csv, "--csv")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm import compat

    compat.apply()
    from hocp_mm import launch
    from hocp_mm.data_check import check_data
    from hocp_mm.data_check.report import report_text, write_faults

    with config_errors():
        cfg = launch.load_config(args.config, args.cfg_options)
    splits = list(dict.fromkeys(args.splits))
    print(f"check: the data sets of {', '.join(splits)} look at their files", file=sys.stderr, flush=True)
    progress = ProgressLine("check", "records")
    with config_errors(cfg):
        report = check_data(cfg, splits=splits, workers=args.workers, deep=not args.fast, progress=progress)
    print(report_text(report))
    if args.csv:
        print(f"written to {write_faults(report, args.csv)}")
    if not report.ok:
        sys.stdout.flush()
        sys.exit(FAULTS_FOUND)
