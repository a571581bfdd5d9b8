"""Valence and arousal of videos and pictures: ``hocp demo VIDEO … --checkpoint FILE --out FOLDER``.

Writes for each video ``<video>.csv`` (one row per frame), ``<video>_timeline.png``, ``<video>_overlay.mp4`` and
``<video>.json`` (which file it was, and what was seen). The video is read once; what nobody is seen in has no number.
Of several videos one that fails costs no other, and a table sums up. Ctrl-C leaves the files of all that was done: of
the video at hand those of the frames so far.
"""

import argparse
import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from hocp_mm.commands import options
from hocp_mm.errors import HOCPError, MissingDataError, NoFaceError, OutputError, SomeFailedError
from hocp_mm.system.cli import ProgressLine, importing, positive
from hocp_mm.system.files import FULL, refuse_links, require_writable, write_text
from hocp_mm.system.inputs import find_inputs
from hocp_mm.system.reading import NOTE_BYTES, read_json
from hocp_mm.system.refusals import visible

FEW_FACES = 50  # percent of the frames: with fewer, a warning
PLOT, OVERLAY, NOTE = "_timeline.png", "_overlay.mp4", ".json"
TABLES = {"csv": ".csv", "json": "_timeline.json", "parquet": ".parquet"}
ENDS = (*TABLES.values(), PLOT, OVERLAY, NOTE)
_MADE = re.compile(r"(.+)_(?:overlay\.mp4|timeline(?:_\d+)?\.png)", re.DOTALL)


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "videos", nargs="+", type=Path, metavar="VIDEO", help="video or picture file, a pattern, or a folder of them"
    )
    options.add_network(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files of each video")
    parser.add_argument("--overwrite", action="store_true", help="replace files that another video left there")
    face = options.add_people(parser)
    face.add_argument("--landmarks", type=Path, metavar="ZIP", help="landmarks of every frame, as in SEWA")
    parser.add_argument(
        "--min-faces",
        type=_percent,
        default=5.0,
        metavar="PERCENT",
        help="refuse a video with a face in fewer of its frames (default: %(default)g)",
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FOLDER", help="folder with <video>_Valence_…csv, to draw against"
    )
    parser.add_argument("--stride", type=positive, help="moments from one window to the next; the config's by default")
    parser.add_argument("--batch-size", type=positive, default=8, help="windows per forward pass")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument("--no-video", action="store_true", help="write no annotated video")
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=list(TABLES),
        default=["csv"],
        metavar="KIND",
        help="csv (the default), json (<video>_timeline.json), parquet; several at once",
    )
    parser.add_argument(
        "--smooth",
        type=options.seconds,
        default=0.2,
        metavar="SECONDS",
        help="standard deviation of the Gaussian of the smoothed columns; 0 for none (default: %(default)g)",
    )
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.labels and args.person == "all":
        parser.error("argument --labels: not allowed with --person all, as labels do not say whose they are")
    return args


def main(argv: list[str] | None = None) -> None:
    """Check what can be checked, then read one video after the other."""
    args = parse_args(argv)
    require_writable(args.out, "--out")
    if "parquet" in args.tables and importlib.util.find_spec("pyarrow") is None:
        raise MissingDataError(
            "--tables: parquet needs pyarrow, which is not installed: pip install 'hocp-mm[tables]'."
        )
    names = find_videos(args.videos)
    check_names(list(names), args.out, args.overwrite, names)
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    with importing():
        from hocp_mm import compat

        compat.apply(training=False)
        from hocp_mm.apis import AffectInferencer, open_source

        sources, outcomes = [], {}
        for video in names:  # all of them, before the first is worked on
            try:
                sources.append(open_source(video))
            except HOCPError as error:
                if len(names) == 1:
                    raise
                outcomes[video] = error
                print(f"failed: {visible(str(error))}", flush=True)
        inferencer = AffectInferencer(args.checkpoint, args.config, args.device)
    if (known := inferencer.network) is not None:
        print(visible(f"{args.checkpoint}: {known.name}, by its shapes and name; {known.licence}"))
    if args.stride and args.stride > inferencer.rule.clip_len:
        raise HOCPError(f"--stride: must not exceed the clip length {inferencer.rule.clip_len}, got {args.stride}.")
    faces = options.look_for(args)
    line = ProgressLine("", "frames")
    watched = inferencer.watch_all(sources, faces, args.stride, args.batch_size, args.flip, line.stage, args.person)
    try:
        with closing(watched):  # with its thread, whatever ends the loop
            for source, frames in watched:
                try:
                    log, told = annotate(source, frames, args.out / names[source.path], faces, inferencer, args)
                except HOCPError as error:
                    if len(names) == 1 or getattr(error.__cause__, "errno", None) in FULL:
                        raise
                    outcomes[source.path] = error
                    line.say(f"failed: {visible(str(error))}")
                else:
                    outcomes[source.path] = log
                    for text in told if len(names) == 1 else [text for text in told if text.startswith("warning: ")]:
                        line.say(visible(text))
    finally:
        line.close()
        if len(names) > 1 and outcomes:
            print(f"\n{summary({video: outcomes[video] for video in names if video in outcomes})}\n\nin {args.out}")
    failed = [error for error in outcomes.values() if isinstance(error, HOCPError)]
    if failed:
        kind = SomeFailedError if len(failed) < len(names) else HOCPError
        raise kind(f"VIDEO: {len(failed)} of {len(names)} failed (see above), the first one: {failed[0]}")


def find_videos(words: Sequence[Path]) -> dict[Path, str]:
    """Return the files that are meant, each with its name below ``--out``, without end.

    Args:
        words: Files, patterns and folders (see `find_inputs`). Files in a folder keep their place in it; what this
            command has made there of another file, by the note beside it, is left out.

    Returns:
        Names by file, in order.
    """
    found: dict[Path, str] = {}
    for word in words:
        for file in find_inputs([word]):
            made = _MADE.fullmatch(file.name)
            if file != word and made is not None and file.with_name(f"{made[1]}{NOTE}").is_file():
                continue
            place = file.relative_to(word).parent if word.is_dir() else Path()
            found.setdefault(file, str(place / file.stem))
    return found


def check_names(videos: Sequence[Path], out: Path, overwrite: bool, names: Mapping[Path, str] | None = None) -> None:
    """Refuse names that would let one video take the place of another, or of a file that is not ours.

    Args:
        videos: The videos.
        out: Folder for what is written.
        overwrite: Allow the place of what is there, but for the videos themselves.
        names: Their names in ``out``; the stems of the files by default.

    Raises:
        HOCPError: If two videos have one name, files that are not of this video have the names of its own, or links.
    """
    names = names or {video: video.stem for video in videos}
    twice = next((name for name, count in Counter(names[video] for video in videos).items() if count > 1), None)
    if twice is not None:
        both = " and ".join(str(video) for video in videos if names[video] == twice)
        raise HOCPError(f"VIDEO: two videos of one name would be written to one place ({both}); use two folders.")
    read = {os.path.realpath(video) for video in videos}  # which takes circles of links, too
    plots: dict[Path, list[Path]] = {}  # of each person, by folder
    for video in videos:
        own = out / names[video]
        refuse_links(*(place for place in own.parents if out in place.parents))
        there = [file for end in ENDS if os.path.lexists(file := own.with_name(f"{own.name}{end}"))]
        if own.parent not in plots:
            plots[own.parent] = sorted(own.parent.glob("*_timeline_*.png"))
        ours = re.compile(rf"{re.escape(own.name)}_timeline_\d+\.png", re.DOTALL)
        there += [file for file in plots[own.parent] if ours.fullmatch(file.name)]
        if same := next((file for file in there if os.path.realpath(file) in read), None):
            raise HOCPError(f"{same}: is read and would be written, too; name another --out ({video}).")
        if link := next((file for file in there if file.is_symlink()), None):
            raise HOCPError(f"{link}: is a link, and what it leads to would be lost; name another --out ({video}).")
        if overwrite or not there:
            continue
        note = own.with_name(f"{own.name}{NOTE}")
        known = read_json(note, "note on a video", largest=NOTE_BYTES) if note.is_file() else None
        source = known.get("video") if isinstance(known, dict) else None
        if source != str(video.absolute()):
            of = f"of {source!s:.100}" if source else "of an unknown video"
            raise HOCPError(f"{there[0]}: is there already, {of}; name another --out, or give --overwrite ({video}).")


def annotate(
    source: Any, frames: Iterable[Any], place: Path, faces: Any, inferencer: Any, args: argparse.Namespace
) -> tuple[Any, list[str]]:
    """Write the files of a video while its frames go by.

    Args:
        source: The video (see `hocp_mm.apis.open_source`).
        frames: Its frames, watched.
        place: Where its files go, without their ends.
        faces: Detector, or where the face is.
        inferencer: The network.
        args: The command line.

    Returns:
        The log of what was seen, and lines to print: what was seen, warnings, names of files.

    Raises:
        NoFaceError: If it shows too few faces.
        KeyboardInterrupt: If that came; the files of what was seen so far are there.
        OutputError: If the disk is full; tables of what was seen so far are there, if they have a place.
    """
    from hocp_mm.apis import with_ground_truth
    from hocp_mm.visualization import OverlayWriter, face_marks

    video, info = source.path, source.info
    log = inferencer.new_log(source, args.smooth)
    truth = with_ground_truth(log.empty_timeline(), args.labels, inferencer.cfg) if args.labels else None
    overlay = None if args.no_video else place.with_name(f"{place.name}{OVERLAY}")
    ended: BaseException | None = None
    try:
        with ExitStack() as stack:
            writer = None
            if overlay is not None:
                size = {"width": info.width, "height": info.height, "fps": info.fps, "pixel_aspect": info.pixel_aspect}
                writer = stack.enter_context(OverlayWriter(overlay, **size, audio=video))
            try:
                for item in frames:
                    log.add(item)
                    if writer is not None:
                        marks = face_marks(item.faces, item.affect, _target(truth, item.frame.number))
                        writer.write(item.frame.picture, item.frame.time, marks)
            except KeyboardInterrupt as error:
                ended = error
                if not log.with_face:
                    raise
            require_faces(log, args.min_faces, whole=ended is None)
            write_note(log, place, args, ended)
    except OutputError as error:
        if not log.with_face:
            raise
        ended = error
        write_note(log, place, args, ended)
    files = write_results(log, place, truth, faces, args)
    if ended is not None:
        raise ended
    told = [f"{video}: {log.summary()}"]
    if (share := 100 * log.with_face / log.frames) < FEW_FACES:
        told.append(f"warning: {video}: a face is seen in {share:.0f} % of the frames only")
    if overlay is None and args.overwrite:
        place.with_name(f"{place.name}{OVERLAY}").unlink(missing_ok=True)  # of another video, or of other numbers
    return log, [*told, *map(str, files), *([] if overlay is None else [str(overlay)])]


def require_faces(log: Any, least: float, whole: bool) -> None:
    """Refuse a video that shows too few faces; one that was not read to its end may show them later.

    Raises:
        NoFaceError: If it does.
    """
    if (whole and 100 * log.with_face / log.frames < least) or not log.with_face:
        raise NoFaceError(
            f"{log.video}: a face must be seen in {f'at least {least:g} %' if least else 'some'} of the frames "
            f"(--min-faces), got {log.summary()}. Give the face with --box x,y,w,h, or take another detector with "
            "--faces."
        )


def write_note(log: Any, place: Path, args: argparse.Namespace, ended: BaseException | None) -> None:
    """Say which video it was; before all else: whatever ends the process, the next call knows whose files lie there."""
    facts = {"video": str(log.video.absolute()), "checkpoint": str(args.checkpoint.absolute()), **log.facts()}
    facts["complete"] = ended is None
    write_text(place.with_name(f"{place.name}{NOTE}"), f"{json.dumps(facts, indent=2)}\n")


def write_results(log: Any, place: Path, truth: Any, faces: Any, args: argparse.Namespace) -> list[Path]:
    """Write tables and plots of what a log holds, and return their names."""
    from hocp_mm.structures.tables import WRITERS
    from hocp_mm.visualization import plot_timeline

    tables = [place.with_name(f"{place.name}{TABLES[kind]}") for kind in dict.fromkeys(args.tables)]
    if args.person == "all":
        for table in tables:
            log.write_people(table)
        people = {f"_{person}": timeline for person, timeline in log.timelines().items()}
        titles = {end: f"{place.name}, person {end[1:]}" for end in people}
    else:
        timeline = log.timeline(told_apart=callable(faces))
        timeline = timeline if truth is None else replace(timeline, target=truth.target, valid=truth.valid)
        for table in tables:
            if table.suffix == ".csv":
                timeline.to_csv(table)
            else:
                WRITERS[table.suffix](table, timeline.columns(), timeline.facts(), True)
        people, titles = {"": timeline}, {"": None}
    stem, _, suffix = PLOT.rpartition(".")
    plots = [
        plot_timeline(
            timeline,
            place.with_name(f"{place.name}{stem}{end}.{suffix}"),
            *([] if titles[end] is None else [titles[end]]),
        )
        for end, timeline in people.items()
    ]
    return [*tables, *plots]


def summary(outcomes: Mapping[Path, Any]) -> str:
    """Return a table with a line for each video.

    Args:
        outcomes: Logs of what was seen, or errors, by video.
    """
    rows = [("video", "frames", "seconds", "with face", "people", "valence", "arousal")]
    for video, log in outcomes.items():
        if isinstance(log, HOCPError):
            rows.append((visible(str(video)), "failed", *("",) * 5))
            continue
        share = f"{100 * log.with_face / log.frames:.0f} %"
        means = [f"{mean:+.2f}" for mean in log.mean()]
        rows.append((visible(str(video)), str(log.frames), f"{log.seconds:.1f}", share, str(len(log.watched)), *means))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)


def _target(truth: Any, frame: int) -> Any:
    return None if truth is None or not truth.valid[frame] else truth.target[frame]


def _percent(text: str) -> float:
    (number,) = options.numbers(text, 1, "a number from 0 to 100")
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 100, got {text!r:.100}")
    return number
