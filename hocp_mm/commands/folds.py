"""Cross-validation in one command: ``hocp folds configs/hocp_afew_va.py``.

Trains and tests every fold with ``hocp train`` and ``hocp test`` and prints the mean over the folds and the
scores of all their frames pooled (``folds.json`` has both). Called again it goes on where it stopped: tested folds are
kept, a training is resumed from its last checkpoint.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocp_mm.errors import DataError, HOCPError
from hocp_mm.system.cli import config_options
from hocp_mm.system.files import refuse_links, require_writable, write_text
from hocp_mm.system.parallel import end_with_launcher, launched
from hocp_mm.system.reading import read_bytes, refuse_to_replace
from hocp_mm.system.refusals import config_errors, visible

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

    from hocp_mm.evaluation import FoldScores
    from hocp_mm.structures import AffectTimeline

HOCP = (sys.executable, "-m", "hocp_mm.commands")
LARGEST_NOTE = 1 << 20  # bytes


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="config file of a data set with folds")
    parser.add_argument("--work-dir", type=Path, help="folder of everything; work_dirs/<name of the config>_folds")
    parser.add_argument("--folds", type=int, nargs="+", metavar="K", help="these only; all by default")
    parser.add_argument(
        "--static-checkpoint",
        metavar="FILE",
        help="source of the TransductionHook; {fold} in it becomes the fold's number, as nobody in the fold's test "
        "part may have been seen in it",
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="handed to trainings and tests"
    )
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return make_parser().parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the folds that are not done, then pool all of them."""
    args = parse_args(argv)
    end_with_launcher()
    from hocp_mm.evaluation import pool_folds

    work_dir: Path = args.work_dir or Path("work_dirs") / f"{Path(args.config).stem}_folds"
    require_writable(work_dir, "--work-dir")
    path = work_dir / "folds.json"
    refuse_to_replace(path, lambda known: isinstance(known, dict) and {"folds", "pooled"} <= known.keys(), "--work-dir")
    first = load(args, 0)
    numbers = choose_folds(first, args.folds)
    check_tests(Path(first.test_dataloader.dataset.data_root), numbers)
    configs = {fold: load(args, fold) for fold in numbers}
    for fold, cfg in configs.items():  # all of them before the first: a wrong folder is known at once
        check_stamp(work_dir / f"fold_{fold}", args, cfg, fold)
    for place, fold in enumerate(numbers, start=1):
        folder = work_dir / f"fold_{fold}"
        print(f"\n[{place}/{len(numbers)}] fold {fold} in {folder}", flush=True)
        train_and_test(folder, args, configs[fold], fold)
    scores = pool_folds({fold: collect(work_dir / f"fold_{fold}", cfg, fold) for fold, cfg in configs.items()})
    write_text(path, json.dumps(asdict(scores), indent=2) + "\n", follow=False)
    print(f"\n{report(scores)}\n\nwritten to {path}", flush=True)


def load(args: argparse.Namespace, fold: int) -> "Config":
    """Return the config as ``hocp train`` will see it.

    Raises:
        HOCPError: If an option is no assignment or chooses a fold.
    """
    from hocp_mm import launch

    options = config_options(args.cfg_options)
    if any(key == "fold" or key.endswith("dataset.fold") for key in options):
        raise HOCPError("--cfg-options: fold is set for each run, choose with --folds.")
    with config_errors():
        return launch.load_config(args.config, {**options, "fold": fold})


def choose_folds(cfg: "Config", wanted: list[int] | None) -> list[int]:
    """Return the numbers of the folds to run.

    Raises:
        HOCPError: If there are no folds, or not the wanted ones.
    """
    from hocp_mm.datasets.splits import count_folds

    root = cfg.test_dataloader.dataset.data_root
    count = count_folds(root)
    if count == 0:
        raise HOCPError(
            f"{Path(root) / 'folds'}: holds no folds; tools/prepare/split_afew_va.py writes them (into the raw folder, "
            "before a store is prepared from it)."
        )
    chosen = sorted(set(range(count) if wanted is None else wanted))
    if unknown := [fold for fold in chosen if not 0 <= fold < count]:
        raise HOCPError(f"--folds: {Path(root) / 'folds'} holds folds 0 to {count - 1}, got {unknown[0]}.")
    return chosen


def check_tests(root: Path, numbers: list[int]) -> None:
    """Refuse folds whose results could not be pooled, before days of training; say what nobody will be tested on.

    Raises:
        DataError: If a clip is in two test parts.
    """
    from hocp_mm.datasets.splits import count_folds, read_fold

    tested: dict[str, int] = {}
    everything: set[str] = set()
    for fold in numbers:
        parts = read_fold(root, fold)
        everything.update(*parts.values())
        for key in parts["test"]:
            if (other := tested.setdefault(key, fold)) != fold:
                raise DataError(f"{root / 'folds'}: a clip is tested once, but {key!r} is in {other} and {fold}.")
    untested = sorted(everything - tested.keys())
    if untested and len(numbers) == count_folds(root):
        some = ", ".join(map(visible, untested[:5])) + (" …" if len(untested) > 5 else "")
        print(f"{root / 'folds'}: {len(untested)} clips are in no test part: {some}", flush=True)


def check_stamp(folder: Path, args: argparse.Namespace, cfg: "Config", fold: int) -> None:
    """Note what a fold is run with, or refuse to go on with a run of something else.

    Raises:
        HOCPError: If the folder holds another run.
    """
    from hocp_mm.datasets.splits import read_fold

    parts = json.dumps(read_fold(cfg.test_dataloader.dataset.data_root, fold))
    stamp = {
        "config": hashlib.sha256(cfg.pretty_text.encode()).hexdigest(),
        "fold": hashlib.sha256(parts.encode()).hexdigest(),
        "static_checkpoint": static_checkpoint(args, fold),
    }
    refuse_links(folder, folder / "test")
    file = folder / "run.json"
    if file.is_file():
        known = read_note(file)
        differing = [key for key in stamp if known.get(key) != stamp[key]]
        if differing:
            raise HOCPError(
                f"{folder}: holds a run with another {' and '.join(differing)}; name another --work-dir, or delete it."
            )
        results = folder / "results"  # complete as soon as they have this name
        if os.path.lexists(results) and not (results / "metrics.json").is_file():
            raise HOCPError(f"{results}: must hold metrics.json, got none; delete it to test again.")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise HOCPError(f"{folder}: must be new, empty, or of an earlier call, got one with other content.")
    write_text(file, json.dumps(stamp, indent=2) + "\n", follow=False)


def read_note(file: Path) -> dict[str, Any]:
    """Return what an earlier call noted in a file.

    Raises:
        HOCPError: If it is no JSON object.
    """
    text = read_bytes(file, "note of an earlier call", LARGEST_NOTE)
    try:
        known = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HOCPError(f"{file}: not readable as JSON ({error}); delete {file.parent} to start again.") from error
    if not isinstance(known, dict):
        raise HOCPError(f"{file}: must hold a JSON object, got {type(known).__name__}; delete {file.parent}.")
    return known


def static_checkpoint(args: argparse.Namespace, fold: int) -> str | None:
    """Return the source of one fold."""
    return None if args.static_checkpoint is None else args.static_checkpoint.replace("{fold}", str(fold))


def train_and_test(folder: Path, args: argparse.Namespace, cfg: "Config", fold: int) -> None:
    """Do what is left to do for one fold."""
    results, trained = folder / "results", folder / "trained.json"
    options = ["--cfg-options", f"fold={fold}", *args.cfg_options]
    if (results / "metrics.json").is_file():
        print("already tested", flush=True)
        return
    if not trained.is_file():
        source = static_checkpoint(args, fold)
        given = ["--static-checkpoint", source] if source else []
        call(fold, "train", [args.config, "--work-dir", str(folder), "--resume", *given, *options])
        write_text(trained, json.dumps({"checkpoint": best_checkpoint(folder, cfg).name}) + "\n", follow=False)
    checkpoint = chosen_checkpoint(trained)
    # Under another name until it is complete.
    draft = folder / "results.part"
    remove(draft)
    call(
        fold,
        "test",
        [args.config, str(checkpoint), "--work-dir", str(folder / "test"), "--out-dir", str(draft), *options],
    )
    draft.rename(results)


def remove(place: Path) -> None:
    """Remove a folder of an earlier call; a link alone, not what it leads to."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)


def chosen_checkpoint(trained: Path) -> Path:
    """Return the checkpoint of this folder that a finished training has chosen.

    Raises:
        HOCPError: If the note says anything else; the folder may be a copy.
    """
    name = read_note(trained).get("checkpoint")
    file = trained.parent / name if isinstance(name, str) and re.fullmatch(r"[^/\\\0]+\.pth", name) else None
    if file is None or not file.is_file() or file.resolve().parent != trained.parent.resolve():
        raise HOCPError(
            f"{trained}: must name a checkpoint of its folder, got {name!r:.100}; delete it to choose anew."
        )
    return file


def call(fold: int, command: str, words: list[str]) -> None:
    """Run another command and let it speak.

    Raises:
        HOCPError: If it fails.
    """
    print(f"$ {shlex.join(['hocp', command, *words])}", flush=True)
    # The folder that one is in is no place to import from.
    environ = {"PYTHONSAFEPATH": "1", **launched()}
    code = subprocess.run([*HOCP, command, *words], env=environ, check=False).returncode
    if code != 0:
        raise HOCPError(
            f"fold {fold}: {command} must succeed, got exit code {code}. The same command again goes on from here."
        )


def best_checkpoint(folder: Path, cfg: "Config") -> Path:
    """Return the checkpoint that did best on the fold's validation part, or the last one where there is no best.

    Raises:
        HOCPError: If training left none.
    """
    by_score = cfg.get("default_hooks", {}).get("checkpoint", {}).get("save_best") is not None
    found = sorted(folder.glob("best_*.pth" if by_score else "epoch_*.pth"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise HOCPError(f"{folder}: training must leave a {'best' if by_score else 'last'} checkpoint, got none.")
    return found[-1]  # the newest: by name, epoch 9 would come after epoch 10


def collect(folder: Path, cfg: "Config", fold: int) -> "list[AffectTimeline]":
    """Read the predictions of a fold, and make sure that they are those of its test part.

    Returns:
        One timeline per clip.

    Raises:
        DataError: If a clip is missing or foreign.
    """
    from hocp_mm.datasets.splits import read_fold
    from hocp_mm.evaluation import read_results

    dataset = cfg.test_dataloader.dataset
    timelines = read_results(folder / "results")
    expected, got = set(read_fold(dataset.data_root, fold)["test"]), {timeline.video for timeline in timelines}
    missing, foreign = sorted(expected - got), sorted(got - expected)
    if foreign or (set(missing) - may_be_missing(dataset, missing)):
        raise DataError(
            f"{folder / 'results'}: must hold the {len(expected)} test clips of fold {fold}, got {len(missing)} "
            f"missing and {len(foreign)} others ({', '.join((missing + foreign)[:5])}); delete it to test again."
        )
    if missing:
        were = "1 faulty clip was" if len(missing) == 1 else f"{len(missing)} faulty clips were"
        print(f"fold {fold}: {were} left out: {visible(', '.join(missing))}", flush=True)
    return timelines


def may_be_missing(dataset: "ConfigDict", missing: list[str]) -> set[str]:
    """Return the test clips that a fold need not have: faulty ones, passed over as asked for or left out of a store."""
    if dataset.get("on_fault", "error") == "skip":
        return set(missing)
    from hocp_mm.datasets.store.report import REPORT, left_out_keys, read_report

    is_store = (Path(dataset.data_root) / REPORT).is_file()
    return left_out_keys(read_report(dataset.data_root)) if is_store else set()


def report(scores: "FoldScores") -> str:
    """Lay out the CCC of each fold and both summaries."""
    from hocp_mm.evaluation import score_table

    def table(title: str, values: dict[str, Any]) -> str:
        return f"{title}\n{score_table({f'affect/{key}': value for key, value in values.items()})}"

    dimensions = ("valence", "arousal", "mean")
    lines = ["CCC     " + "".join(f"{name:>9}" for name in dimensions)]
    for fold, values in scores.folds.items():
        lines.append(f"fold {fold:<3}" + "".join(f"{values[f'ccc_{name}']:9.3f}" for name in dimensions))
    count = "1 fold" if len(scores.folds) == 1 else f"{len(scores.folds)} folds"
    spread = ", ".join(f"{name} {scores.std[f'ccc_{name}']:.3f}" for name in dimensions)
    return "\n\n".join(
        [
            "\n".join(lines),
            table(f"mean over {count} (standard deviation of CCC: {spread})", scores.mean),
            table(f"pooled: {scores.frames} valid frames of {scores.videos} clips of {count}", scores.pooled),
        ]
    )
