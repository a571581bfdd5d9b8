"""Why a network says what it says of a video: ``hocp explain VIDEO --checkpoint FILE --out FOLDER``.

Writes ``<video>_explain_cam.mp4`` and ``.png`` (where it looks: what raises and what lowers valence and arousal),
``_explain_taps`` (what it learnt along time, layer by layer), ``_explain_field`` (how many frames it sees, and how much
each counts), ``_explain_frames`` (which frames moved a prediction), and ``_explain.json`` (what was done). How to read
them is in docs/explain.md.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from hocp_mm.commands import options
from hocp_mm.errors import HOCPError
from hocp_mm.system.cli import ProgressLine, importing, positive
from hocp_mm.system.files import require_writable, write_text
from hocp_mm.system.reading import NOTE_BYTES, read_json
from hocp_mm.system.refusals import visible

NOTE = "_explain.json"


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("video", type=Path, metavar="VIDEO", help="video or picture file")
    options.add_network(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--overwrite", action="store_true", help="replace files that another video left there")
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="whose map is drawn: a regular expression found in its name; the backbone's last map by default",
    )
    parser.add_argument(
        "--frame",
        type=_frame,
        action="append",
        default=[],
        metavar="N",
        help="tell which frames moved that of this one",
    )
    parser.add_argument(
        "--at",
        type=options.seconds,
        action="append",
        default=[],
        metavar="SECONDS",
        help="the same, by time; by default where valence and arousal change most",
    )
    options.add_people(parser, everybody=False)
    parser.add_argument("--stride", type=positive, help="moments from one window to the next; the config's by default")
    parser.add_argument("--batch-size", type=positive, default=8, help="windows per forward pass")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument("--no-video", action="store_true", help="write no film")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Check what can be checked, then read the video twice."""
    args = make_parser().parse_args(argv)
    require_writable(args.out, "--out")
    place = args.out / args.video.stem
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    with importing():
        from hocp_mm import compat

        compat.apply(training=False)
        from hocp_mm.apis import open_source
        from hocp_mm.apis.explaining import ENDS, Explainer, explain

        check_place(args.video, place, ENDS, args.overwrite)
        source = open_source(args.video)
        explainer = Explainer(args.checkpoint, args.config, args.device, args.layer)
    if args.stride and args.stride > explainer.rule.clip_len:
        raise HOCPError(f"--stride: must not exceed the clip length {explainer.rule.clip_len}, got {args.stride}.")
    if (known := explainer.network) is not None:
        print(visible(f"{args.checkpoint}: {known.name}, by its shapes and name; {known.licence}"))
    faces = options.look_for(args)
    note = place.with_name(f"{place.name}{NOTE}")
    said: dict[str, Any] = {
        "video": str(args.video.absolute()), "checkpoint": str(args.checkpoint.absolute()), "complete": False,
    }  # fmt: skip
    write_note(note, said)  # before all else: whatever ends the process, the next call knows whose files lie there
    line = ProgressLine("", "frames")
    try:
        found = explain(
            explainer,
            source,
            place,
            faces,
            args.stride,
            args.batch_size,
            args.flip,
            line.stage,
            args.person,
            frames=args.frame,
            at=args.at,
            film=not args.no_video,
        )
    finally:
        line.close()
    if args.no_video and args.overwrite:
        place.with_name(f"{place.name}{ENDS[0]}").unlink(missing_ok=True)  # of another video, or of other numbers
    write_note(note, {**said, **found.facts, "files": [file.name for file in found.files], "complete": True})
    for text in (*found.lines, *map(str, found.files), str(note)):
        print(visible(text))


def write_note(path: Path, facts: dict[str, Any]) -> None:
    """Write what was done."""
    write_text(path, f"{json.dumps(facts, indent=2)}\n")


def check_place(video: Path, place: Path, ends: tuple[str, ...], overwrite: bool) -> None:
    """Refuse to write over the video, by way of links, or over what is not known to be of this video.

    Args:
        video: What is read.
        place: Where the files go, without their ends.
        ends: These.
        overwrite: Allow the place of what is there.

    Raises:
        HOCPError: If there is such a file.
    """
    note = place.with_name(f"{place.name}{NOTE}")
    there = [file for end in (NOTE, *ends) if os.path.lexists(file := place.with_name(f"{place.name}{end}"))]
    for file in there:
        if file.is_symlink():
            raise HOCPError(f"{file}: is a link, and what it leads to would be lost; name another --out ({video}).")
        if os.path.realpath(file) == os.path.realpath(video):
            raise HOCPError(f"{file}: is read and would be written, too; name another --out ({video}).")
    if overwrite or not there:
        return
    known = read_json(note, "note on a video", largest=NOTE_BYTES) if note.is_file() else None
    of = known.get("video") if isinstance(known, dict) else None
    if of != str(video.absolute()):
        whose = f"of {of!s:.100}" if of else "of an unknown video"
        raise HOCPError(f"{there[0]}: is there already, {whose}; name another --out, or give --overwrite ({video}).")


def _frame(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, got {text!r:.100}")
    return int(text)
