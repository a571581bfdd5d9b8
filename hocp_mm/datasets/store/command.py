"""What the commands that prepare stores share: options, detector, the table at the end."""

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hocp_mm.datasets.faces.crops import CODECS, CropSettings
from hocp_mm.datasets.faces.detection import DETECTORS, best_detector, make_detector
from hocp_mm.datasets.records.dataset import AffectDataset
from hocp_mm.datasets.splits import read_split_file
from hocp_mm.datasets.store.parts import split_files
from hocp_mm.datasets.store.prepare import Summary, prepare_store
from hocp_mm.datasets.store.report import REPORT
from hocp_mm.datasets.store.task import DetectorChoice
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.system.cli import ProgressLine
from hocp_mm.system.files import require_writable

WHOLE_FRAMES = "frame"
_MARGIN = 1.5


@dataclass(frozen=True)
class RawParts:
    """A raw data set, ready to be prepared.

    Attributes:
        parts: Data sets by part, built with ``lazy_init=True`` and ``on_fault="skip"``.
        split_folders: See `prepare_store`.
        pixel_aspect: Width of a pixel over its height.
    """

    parts: Mapping[str, AffectDataset]
    split_folders: Mapping[str, Path] | None = None
    pixel_aspect: float = 1.0


def store_parser(
    description: str | None, root_help: str, size: int = 176, margin: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with the options of every store.

    Args:
        description: Of the command.
        root_help: What the raw folder holds.
        size: Default side of the crops.
        margin: Offer what only faces cut from larger frames have: margin, smoothing and detectors.

    Returns:
        The parser; a command adds its own options.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help=root_help)
    parser.add_argument("out", type=Path, help="folder of the store; new, or one to complete or bring up to date")
    parser.add_argument("--size", type=int, default=size, help=f"side of the crops in pixels, default: {size}")
    parser.set_defaults(margin=None, smooth=25, detector=None, detector_model=None)
    if margin:
        parser.add_argument("--margin", type=float, help=f"crop over face box, default: {_MARGIN}")
        parser.add_argument("--smooth", type=int, help="25ths of a second that a box is averaged over, default: 25")
        parser.add_argument("--detector", choices=DETECTORS, help="find the faces, instead of what the data set says")
        parser.add_argument("--detector-model", type=Path, help="file of the detector, e.g. the onnx file of yunet")
    parser.add_argument("--codec", choices=CODECS, default="jpeg", help="png loses nothing, default: jpeg")
    parser.add_argument("--quality", type=int, default=95, help="of jpeg, 1 to 100, default: 95")
    parser.add_argument("--workers", type=int, help="processes; one per CPU core if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace a store prepared with other settings")
    return parser


def run_store_command(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    build: Callable[[argparse.Namespace, str], RawParts],
    faces: str,
    config: str,
) -> None:
    """Prepare a store and print what it holds.

    Args:
        parser: Reports wrong options.
        args: Its result.
        build: Makes the raw data sets of the options and of what they crop, ``"frame"`` for whole frames.
        faces: What the data set itself crops by.
        config: Recipe to train with, for the last line.

    Raises:
        ValueError: If a file of the data set breaks a rule, as a `DataError`; wrong options end the process.
    """
    if args.workers is not None and args.workers < 1:
        parser.error(f"argument --workers: must be at least 1, got {args.workers}")
    require_writable(args.out, "OUT")
    if args.detector == "auto" and args.detector_model is None:
        args.detector = best_detector()  # a store names the detector that found its faces, to be completed by the same
    whole = faces == WHOLE_FRAMES and args.detector is None
    if whole and args.margin is not None:
        parser.error("argument --margin: whole frames have no margin")
    margin = None if whole else _MARGIN if args.margin is None else args.margin
    try:
        choice = _detector(args)
        raw = build(args, faces if choice is None else WHOLE_FRAMES)
        name = args.detector or faces
        crop = CropSettings(args.size, margin, args.smooth, args.codec, args.quality, name, raw.pixel_aspect)
    except ValueError as error:
        if isinstance(error, HOCPError):
            raise
        parser.error(str(error))
    summary = prepare_store(
        args.out,
        raw.parts,
        crop,
        split_folders=raw.split_folders,
        detector=choice,
        workers=args.workers,
        progress=ProgressLine("face crops", "packs"),
        overwrite=args.overwrite,
    )
    print_summary(summary, args.out, config)


def find_splits(root: Path, tool: str) -> dict[str, Path]:
    """Return the split files of a raw folder by part, without parts that name nothing.

    Args:
        root: Folder of the raw set.
        tool: Command that writes split files.

    Returns:
        At least one file.

    Raises:
        MissingDataError: If there are no files.
        DataError: If they name nothing.
    """
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder; name the one that holds the data set.")
    try:
        files = split_files(root / "splits")
    except MissingDataError as error:
        raise MissingDataError(
            f"{root / 'splits'}: must hold train.txt, val.txt and test.txt; `python {tool} {root}` writes them."
        ) from error
    files = {part: file for part, file in files.items() if read_split_file(file, allow_empty=True)}
    if not files:
        raise DataError(f"{root / 'splits'}: a part must name at least one video, got none.")
    return files


def print_summary(summary: Summary, out: Path, config: str) -> None:
    """Print what a store holds, what was left out, and how to train with it."""
    face = 100 * summary.faces / max(1, summary.frames)
    lines = [
        ("records", f"{summary.records:,}"),
        ("frames", f"{summary.frames:,}, {summary.pictures:,} with a picture, face found in {face:.1f} %"),
        ("bytes", f"{summary.num_bytes:,} ({summary.num_bytes / max(1, summary.pictures) / 1000:.1f} kB a picture)"),
        ("packs", f"{summary.packs_made:,} made, {summary.packs_kept:,} found ready"),
        ("skipped", ", ".join(f"{count} {kind}" for kind, count in summary.skipped.items()) or "nothing"),
    ]
    if summary.skipped:
        lines.append(("", f"each named in {out / REPORT}"))
    lines.append(("train", f"python tools/train.py {config} --cfg-options store={out}"))
    print("\n".join(f"{name:<8} {text}" for name, text in lines))  # noqa: T201 - what the command is asked for


def fraction(text: str) -> float:
    """Return a number written as ``1.333`` or as ``4/3``.

    Example:
        >>> fraction("3/2"), fraction("1.25")
        (1.5, 1.25)
    """
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def _detector(args: argparse.Namespace) -> DetectorChoice | None:
    """Return the detector of the options, described by its name and a hash of its file.

    Raises:
        MissingDataError: If its file is missing.
        ValueError: If the options contradict each other.
    """
    model: Path | None = args.detector_model
    if args.detector is None:
        if model is not None:
            raise ValueError("argument --detector-model: needs --detector")
        return None
    detector = make_detector(args.detector, model)
    if model is None:
        return DetectorChoice(detector, args.detector)
    if not model.is_file():
        raise MissingDataError(f"{model}: no such file (--detector-model).")
    return DetectorChoice(detector, f"{args.detector} {hashlib.sha256(model.read_bytes()).hexdigest()[:16]}")


def labels_options(parser: argparse.ArgumentParser, default: Sequence[float]) -> None:
    """Add the scale of the labels."""
    low, high = default
    parser.add_argument(
        "--label-range",
        type=float,
        nargs=2,
        default=(low, high),
        metavar=("LOW", "HIGH"),
        help=f"scale of the labels, default: {low:g} {high:g}",
    )
