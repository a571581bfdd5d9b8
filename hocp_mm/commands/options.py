"""Options that several commands share, in one wording: the network, the face, whom to watch."""

import argparse
import math
from pathlib import Path
from typing import Any

from hocp_mm.errors import HOCPError
from hocp_mm.system.cli import positive

_DETECTORS = ["auto", "centerface", "yunet", "haar", "cascade", "frame"]


def add_network(
    parser: argparse.ArgumentParser, what: str = "weights saved by hocp train, or of a known network"
) -> None:
    """Add ``--checkpoint``, ``--config`` and ``--device``.

    Args:
        parser: Of the command.
        what: The checkpoint is.
    """
    parser.add_argument("--checkpoint", type=Path, required=True, help=what)
    parser.add_argument(
        "--config", type=Path, help="config of the network; the one recorded in the checkpoint by default"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0; CUDA by default where there is one")


def add_detector(parser: argparse.ArgumentParser) -> Any:
    """Add ``--faces`` and ``--detector-model``.

    Args:
        parser: Of the command.

    Returns:
        The group in which other places of the face exclude ``--faces``.
    """
    face = parser.add_mutually_exclusive_group()
    face.add_argument(
        "--faces",
        choices=_DETECTORS,
        default="auto",
        help="detector that finds the face (auto: the best that is installed), or take the whole frame for it",
    )
    parser.add_argument(
        "--detector-model", type=Path, metavar="FILE", help="file of the detector: an onnx file, or haar's XML"
    )
    return face


def add_people(parser: argparse.ArgumentParser, everybody: bool = True) -> Any:
    """Add ``--box`` and ``--person`` to what `add_detector` adds.

    Args:
        parser: Of the command.
        everybody: Take ``--person all``, too.

    Returns:
        As `add_detector`.
    """
    face = add_detector(parser)
    face.add_argument(
        "--box", type=_box, metavar="X,Y,W,H", help="where the face is: pixels, tight around brows, eyes and mouth"
    )
    parser.add_argument(
        "--person",
        type=_anybody if everybody else _person,
        default="largest",
        metavar="WHOM",
        help=f"largest (the default), {'all, ' if everybody else ''}a number in the order of appearance, or a point "
        "x,y in pixels",
    )
    return face


def look_for(args: argparse.Namespace) -> Any:
    """Return the detector, or where the face is.

    Raises:
        HOCPError: If it is no detector that a file was given for, or the detector cannot be had.
    """
    from hocp_mm.datasets import make_detector

    given = getattr(args, "box", None) or getattr(args, "landmarks", None)
    place = given or (args.faces if args.faces == "frame" else None)
    if place is None:
        return make_detector(args.faces, args.detector_model)
    if args.detector_model is not None:
        raise HOCPError(
            f"--detector-model: {args.detector_model} is the file of a detector, but the face comes from {place}."
        )
    return place


def numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    """Read so many numbers, separated by commas."""
    try:
        found = tuple(float(number) for number in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count or not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r:.100}")
    return found


def seconds(text: str) -> float:
    """Read a number of 0 or more."""
    (number,) = numbers(text, 1, "a number of 0 or more")
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, got {text!r:.100}")
    return number


def _box(text: str) -> tuple[float, ...]:
    return numbers(text, 4, "four numbers x,y,w,h")


def _anybody(text: str) -> str | int | tuple[float, ...]:
    return text if text == "all" else _person(text, "largest, all, a number from 1 or a point x,y")


def _person(text: str, what: str = "largest, a number from 1 or a point x,y") -> str | int | tuple[float, ...]:
    if text == "largest":
        return text
    return positive(text) if text.isdigit() else numbers(text, 2, what)
