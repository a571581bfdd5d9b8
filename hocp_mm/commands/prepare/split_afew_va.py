"""Divide AFEW-VA into folds for cross-validation: whole actors, balanced in clips.

`<ROOT>/folds/fold_<k>/{train,val,test}.txt` carry the seed and a checksum. Every clip is tested in one fold; no actor
is in two parts of a fold.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hocp_mm.errors import DataError
from hocp_mm.system.files import refuse_links, require_writable

if TYPE_CHECKING:
    from hocp_mm.datasets.records.faults import Fault
    from hocp_mm.datasets.splits import Parts


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder that holds one folder per clip, e.g. data/AFEW-VA")
    parser.add_argument("--folds", type=int, default=5, help="number of folds, default: 5")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws, default: 0")
    parser.add_argument(
        "--val-share", type=float, default=0.125, help="share of validation in what is not tested, default: 0.125"
    )
    parser.add_argument("--force", action="store_true", help="replace fold files that differ, or were written by hand")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, write the fold files and print a table."""
    args = make_parser().parse_args(argv)
    if args.root.is_dir():
        require_writable(args.root, "ROOT")
        refuse_links(args.root / "folds", *(args.root / "folds").glob("fold_*"))
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm.datasets.splits import check_folds, count_folds, make_folds, write_fold_files

    actors = read_actors(args.root)
    try:
        folds = make_folds(list(actors), list(actors.values()), args.folds, args.seed, args.val_share)
    except ValueError as error:
        raise DataError(f"{args.root}: {error}") from error
    check_folds(folds, actors.__getitem__)
    if not args.force:
        refuse_other_folds(args.root, folds)
    elif count_folds(args.root) > len(folds):
        raise DataError(f"{args.root / 'folds'}: holds {count_folds(args.root)} folds; delete it to write fewer.")
    folder = write_fold_files(args.root, folds, args.seed, grouped_by="actor")
    print(f"{'fold':<5}" + "".join(f"{part:>7} {'actors':>7}" for part in folds[0]))
    for fold, parts in enumerate(folds):
        cells = [f"{len(keys):>7} {len({actors[key] for key in keys}):>7}" for keys in parts.values()]
        print(f"{fold:<5}" + "".join(cells))
    print(f"clips and actors of each part; {len(actors)} clips of {len(set(actors.values()))} actors")
    print(f"written to {folder} with seed {args.seed}")


def read_actors(root: Path) -> dict[str, str]:
    """Read who acts in each clip, by clip name; spelling variants count as one.

    Returns:
        Actors by clip name; an error names every clip whose JSON does not say.
    """
    from hocp_mm.datasets.afew_va.files import find_afew_va_clips, read_afew_va_actor
    from hocp_mm.datasets.records.faults import attempt, raise_faults
    from hocp_mm.structures import same_actor

    faults: list[Fault] = []
    clips = find_afew_va_clips(root)
    files = {clip: root / clip / f"{clip}.json" for clip in clips}
    actors = {clip: attempt(faults, "labels", file, read_afew_va_actor, file) for clip, file in files.items()}
    raise_faults(str(root), faults)
    return {clip: same_actor(actor) for clip, actor in actors.items() if actor is not None}


def refuse_other_folds(root: Path, folds: Sequence["Parts"]) -> None:
    """Refuse to overwrite other folds, with which results would no longer compare.

    Raises:
        DataError: If there are some.
    """
    from hocp_mm.datasets.splits import count_folds, refuse_to_replace

    known = count_folds(root)
    if known and known != len(folds):
        raise DataError(
            f"{root / 'folds'}: holds {known} folds, and results on them would no longer compare; pass --force."
        )
    for fold, parts in enumerate(folds):
        refuse_to_replace(root / "folds" / f"fold_{fold}", parts)
