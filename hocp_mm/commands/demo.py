"""Valence and arousal of a video: ``hocp demo VIDEO … --checkpoint FILE --out FOLDER``.

Writes for each video ``<video>.csv`` (one row per frame), ``<video>_timeline.png``, ``<video>_overlay.mp4`` and
``<video>.json`` (which file it was, and what was seen). The video is read once; what nobody is seen in has no number.
"""

import argparse
import json
import math
import os
import re
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from hocp_mm.errors import HOCPError, NoFaceError
from hocp_mm.system.cli import ProgressLine, importing, positive
from hocp_mm.system.files import require_writable, write_text
from hocp_mm.system.reading import NOTE_BYTES, read_json
from hocp_mm.system.refusals import visible

FEW_FACES = 50  # percent of the frames: with fewer, a warning
TABLE, PLOT, OVERLAY, NOTE = ENDS = (".csv", "_timeline.png", "_overlay.mp4", ".json")


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="video file, or a picture")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weights saved by tools/train.py, or of a known network"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the files of each video")
    parser.add_argument("--overwrite", action="store_true", help="replace files that another video left there")
    parser.add_argument(
        "--config", type=Path, help="config of the network; the one recorded in the checkpoint by default"
    )
    face = parser.add_mutually_exclusive_group()
    face.add_argument(
        "--faces",
        choices=["auto", "centerface", "yunet", "haar", "cascade", "frame"],
        default="auto",
        help="detector that finds the face (auto: the best that is installed), or take the whole frame for it",
    )
    face.add_argument(
        "--box", type=_box, metavar="X,Y,W,H", help="where the face is: pixels, tight around brows, eyes and mouth"
    )
    face.add_argument("--landmarks", type=Path, metavar="ZIP", help="landmarks of every frame, as in SEWA")
    parser.add_argument(
        "--detector-model", type=Path, metavar="FILE", help="file of the detector: an onnx file, or haar's XML"
    )
    parser.add_argument(
        "--person",
        type=_person,
        default="largest",
        metavar="WHOM",
        help="largest (the default), all, a number in the order of appearance, or a point x,y in pixels",
    )
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
    parser.add_argument("--device", help="such as cpu or cuda:0; CUDA by default where there is one")
    parser.add_argument("--no-video", action="store_true", help="write no annotated video")
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
    check_names(args.videos, args.out, args.overwrite)
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    with importing():
        from hocp_mm import compat

        compat.apply(training=False)
        from hocp_mm.apis import AffectInferencer
        from hocp_mm.datasets import probe_video

        for video in args.videos:
            probe_video(video)  # all of them, before the first is worked on
        inferencer = AffectInferencer(args.checkpoint, args.config, args.device)
    if (known := inferencer.network) is not None:
        print(visible(f"{args.checkpoint}: {known.name}, by its shapes and name; {known.licence}"))
    if args.stride and args.stride > inferencer.rule.clip_len:
        raise HOCPError(f"--stride: must not exceed the clip length {inferencer.rule.clip_len}, got {args.stride}.")
    faces = look_for(args)
    failed: list[HOCPError] = []
    for video in args.videos:
        try:
            annotate(video, faces, inferencer, args)
        except HOCPError as error:
            if len(args.videos) == 1:
                raise
            failed.append(error)
            print(f"failed: {visible(str(error))}")
    if failed:
        raise HOCPError(f"VIDEO: {len(failed)} of {len(args.videos)} failed (see above), the first one: {failed[0]}")


def check_names(videos: list[Path], out: Path, overwrite: bool) -> None:
    """Refuse names that would let one video take the place of another, or of a file that is not ours.

    Args:
        videos: The videos.
        out: Folder for what is written.
        overwrite: Allow the place of what is there, but for the videos themselves.

    Raises:
        HOCPError: If two videos have one name, files that are not of this video have the names of its own, or links.
    """
    twice = next((stem for stem, count in Counter(video.stem for video in videos).items() if count > 1), None)
    if twice is not None:
        both = " and ".join(str(video) for video in videos if video.stem == twice)
        raise HOCPError(f"VIDEO: two videos of one name would be written to one place ({both}); use two folders.")
    read = {os.path.realpath(video) for video in videos}  # which takes circles of links, too
    plots = sorted(out.glob("*_timeline_*.png"))  # of each person
    for video in videos:
        there = [file for end in ENDS if os.path.lexists(file := out / f"{video.stem}{end}")]
        there += [file for file in plots if re.fullmatch(rf"{re.escape(video.stem)}_timeline_\d+\.png", file.name)]
        if own := next((file for file in there if os.path.realpath(file) in read), None):
            raise HOCPError(f"{own}: is read and would be written, too; name another --out ({video}).")
        if link := next((file for file in there if file.is_symlink()), None):
            raise HOCPError(f"{link}: is a link, and what it leads to would be lost; name another --out ({video}).")
        if overwrite or not there:
            continue
        note = out / f"{video.stem}{NOTE}"
        known = read_json(note, "note on a video", largest=NOTE_BYTES) if note.is_file() else None
        source = known.get("video") if isinstance(known, dict) else None
        if source != str(video.absolute()):
            of = f"of {source!s:.100}" if source else "of an unknown video"
            raise HOCPError(f"{there[0]}: is there already, {of}; name another --out, or give --overwrite ({video}).")


def look_for(args: argparse.Namespace) -> Any:
    """Return the detector, or where the face is.

    Raises:
        HOCPError: If it is no detector that a file was given for, or the detector cannot be had.
    """
    from hocp_mm.datasets import make_detector

    place = args.box or args.landmarks or (args.faces if args.faces == "frame" else None)
    if place is None:
        return make_detector(args.faces, args.detector_model)
    if args.detector_model is not None:
        raise HOCPError(
            f"--detector-model: {args.detector_model} is the file of a detector, but the face comes from {place}."
        )
    return place


def annotate(video: Path, faces: Any, inferencer: Any, args: argparse.Namespace) -> None:
    """Read a video once, write its files and print their names.

    Args:
        video: The video.
        faces: Detector, or where the face is.
        inferencer: The network.
        args: The command line.

    Raises:
        NoFaceError: If it shows too few faces.
    """
    from hocp_mm.apis import WatchLog, with_ground_truth
    from hocp_mm.datasets import probe_video
    from hocp_mm.visualization import OverlayWriter, plot_timeline

    info = probe_video(video)
    log = WatchLog(video, info)
    truth = with_ground_truth(log.empty_timeline(), args.labels, inferencer.cfg) if args.labels else None
    table, plot, overlay = (args.out / f"{video.stem}{end}" for end in (TABLE, PLOT, OVERLAY))
    progress = ProgressLine("", "frames").stage
    watched = inferencer.watch(video, faces, args.stride, args.batch_size, args.flip, progress, args.person)
    with ExitStack() as stack:
        writer = None
        if not args.no_video:
            size = {"width": info.width, "height": info.height, "fps": info.fps, "pixel_aspect": info.pixel_aspect}
            writer = stack.enter_context(OverlayWriter(overlay, **size, audio=video))
        stack.enter_context(closing(watched))  # with its thread, whatever ends the loop
        for item in watched:
            log.add(item)
            if writer is not None:
                writer.write(item.frame.picture, item.frame.time, marks(item, truth))
        share = 100 * log.with_face / log.frames
        if share < args.min_faces or not log.with_face:
            raise NoFaceError(
                f"{video}: a face must be seen in {f'at least {args.min_faces:g} %' if args.min_faces else 'some'} of "
                "the frames (--min-faces), got "
                f"{log.summary()}. Give the face with --box x,y,w,h, or take another detector with --faces."
            )
        # Before all else: whatever ends the process, the next call knows whose files lie there.
        facts = {"video": str(video.absolute()), "checkpoint": str(args.checkpoint.absolute()), **log.facts()}
        write_text(args.out / f"{video.stem}{NOTE}", f"{json.dumps(facts, indent=2)}\n")
    if args.person == "all":
        log.write_people(table)
        plots = [
            plot_timeline(timeline, args.out / f"{video.stem}_timeline_{person}.png", f"{video.stem}, person {person}")
            for person, timeline in log.timelines().items()
        ]
    else:
        timeline = log.timeline(told_apart=callable(faces))
        timeline = timeline if truth is None else replace(timeline, target=truth.target, valid=truth.valid)
        timeline.to_csv(table)
        plots = [plot_timeline(timeline, plot)]
    told = [f"{video}: {log.summary()}"]
    if share < FEW_FACES:
        told.append(f"warning: {video}: a face is seen in {share:.0f} % of the frames only")
    if writer is None and args.overwrite:
        overlay.unlink(missing_ok=True)  # of another video, or of other numbers
    files = [table, *plots, *([] if writer is None else [overlay])]
    print(*(visible(str(line)) for line in (*told, *files)), sep="\n")


def marks(item: Any, truth: Any) -> list[Any]:
    """Return what to draw on a frame: first those who are watched, then all others, or that nobody is watched.

    Args:
        item: The frame (see `hocp_mm.apis.Watched`).
        truth: Timeline with labels, or None.
    """
    from hocp_mm.visualization import FaceMark

    number = item.frame.number
    target = None if truth is None or not truth.valid[number] else truth.target[number]
    named = len(item.faces) > 1 or any(face.person > 1 for face in item.faces)
    faces = sorted(item.faces, key=lambda face: face.person not in item.affect)
    found = [
        FaceMark(face.box, item.affect.get(face.person), face.seen, face.person if named else None, target)
        for face in faces
    ]
    return found if item.affect else [FaceMark(None, None, False, None, target), *found]


def _box(text: str) -> tuple[float, ...]:
    return _numbers(text, 4, "four numbers x,y,w,h")


def _numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r:.100}")
    return numbers


def _person(text: str) -> str | int | tuple[float, ...]:
    if text in ("largest", "all"):
        return text
    return positive(text) if text.isdigit() else _numbers(text, 2, "largest, all, a number from 1 or a point x,y")


def _percent(text: str) -> float:
    (number,) = _numbers(text, 1, "a number from 0 to 100")
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 100, got {text!r:.100}")
    return number
