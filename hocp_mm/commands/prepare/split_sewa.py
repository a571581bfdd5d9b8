"""Divide SEWA into train, val and test: whole conversations, stratified by culture.

Both partners of a conversation share the talk, so they stay together; `<ROOT>/splits/{train,val,test}.txt`
carry the seed and a checksum.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hocp_mm.errors import DataError
from hocp_mm.system.files import refuse_links, require_writable


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder that holds one folder per segment, e.g. data/SEWAv02")
    parser.add_argument(
        "--ratios", type=float, nargs=3, default=(8, 1, 1), metavar=("TRAIN", "VAL", "TEST"), help="default: 8 1 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffle, default: 0")
    parser.add_argument("--force", action="store_true", help="replace split files that differ, or were written by hand")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, write the split files and print a table."""
    args = make_parser().parse_args(argv)
    if args.root.is_dir():
        require_writable(args.root, "ROOT")
        refuse_links(args.root / "splits")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm.datasets.sewa.files import find_sewa_keys, parse_sewa_key
    from hocp_mm.datasets.splits import check_no_leak, refuse_to_replace, split_by_group, write_split_files

    keys = find_sewa_keys(args.root)
    names = {key: parse_sewa_key(key) for key in keys}
    try:
        parts = split_by_group(
            keys,
            [names[key].conversation for key in keys],
            ratios=args.ratios,
            seed=args.seed,
            strata=[names[key].culture for key in keys],
        )
    except ValueError as error:
        raise DataError(f"{args.root}: {error}") from error
    check_no_leak(parts, lambda key: names[key].conversation)
    folder = args.root / "splits"
    if not args.force:
        refuse_to_replace(folder, parts)
    write_split_files(folder, parts, args.seed)
    cultures = sorted({name.culture for name in names.values()})
    print(f"{'part':<6} {'videos':>7} {'talks':>6} " + " ".join(f"{culture:>5}" for culture in cultures))
    for part, chosen in parts.items():
        talks = {names[key].conversation: names[key].culture for key in chosen}
        counts = " ".join(f"{list(talks.values()).count(culture):>5}" for culture in cultures)
        print(f"{part:<6} {len(chosen):>7} {len(talks):>6} {counts}")
    print(f"talks per culture on the right; written to {folder} with seed {args.seed}")
