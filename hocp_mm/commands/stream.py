"""Valence and arousal while frames come in: ``hocp stream --camera 0 --checkpoint FILE``.

Frames come from a camera, a video file, or a pipe of raw pictures (``ffmpeg … -f rawvideo -pix_fmt rgb24 - | hocp
stream --raw 640x480 --fps 25 …``). What is said of them is shown in a window, written to ``--out FOLDER`` (a table that
grows row by row, and an annotated video), or printed row by row (``--rows``). A camera is never kept waiting: frames
that come while the network is at work are left out and counted.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hocp_mm.commands import options
from hocp_mm.errors import HOCPError, MissingDataError
from hocp_mm.system.cli import importing
from hocp_mm.system.files import require_writable, require_writable_file, writing
from hocp_mm.system.refusals import visible

TABLE, OVERLAY = "_stream.csv", "_stream.mp4"
_RECENT = 10_000  # frames that the last line tells of
_QUIT = (27, ord("q"))
_Row = dict[str, Any]


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("video", nargs="?", type=Path, metavar="VIDEO", help="a video file")
    source.add_argument("--camera", type=_whole, metavar="NUMBER", help="a camera, 0 for the first")
    source.add_argument(
        "--raw", type=_size, metavar="WIDTHxHEIGHT", help="raw pictures on standard input, three bytes a pixel: R, G, B"
    )
    parser.add_argument("--fps", type=_rate, help="frames per second of --raw")
    options.add_network(parser)
    options.add_people(parser)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="say it a second later, of faces that are followed and cut as in files",
    )
    parser.add_argument("--seconds", type=options.seconds, help="end after so much film; at the end of it by default")
    parser.add_argument(
        "--window", action="store_true", help="show it; the default without --out and --rows; q or Esc ends it"
    )
    parser.add_argument("--rows", choices=["csv", "json"], help="print a row for every face of every frame")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for a table and an annotated video")
    parser.add_argument("--no-video", action="store_true", help="write no annotated video")
    parser.add_argument("--overwrite", action="store_true", help="replace files that lie in --out")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.raw is None) != (args.fps is None):
        parser.error("argument --fps: goes with --raw, which has no rate of its own; files and cameras have")
    if args.seconds == 0:
        parser.error("argument --seconds: must be above 0, got 0")
    args.window = args.window or not (args.out or args.rows)
    return args


def main(argv: list[str] | None = None) -> None:
    """Open what is to be watched and where it is to be told, then go on until the end, Ctrl-C, or a key."""
    args = parse_args(argv)
    places = _places(args)
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    with importing():
        from hocp_mm import compat

        compat.apply(training=False)
        from hocp_mm.apis import AffectStream, open_source
        from hocp_mm.apis.sources import open_raw

        show = _Window() if args.window else None
        if args.raw:
            width, height = args.raw
            source = open_raw(sys.stdin.buffer, width, height, args.fps)
        else:
            source = open_source(args.video if args.camera is None else args.camera)
        source = source.until(args.seconds)
        stream = AffectStream(
            args.checkpoint,
            options.look_for(args),
            args.person,
            live=not args.wait,
            fps=None if args.camera is not None else source.rate,
            pixel_aspect=source.info.pixel_aspect,
            config=args.config,
            device=args.device,
        )
    _tell(f"{source.where}: {stream.delay:.2g} s behind; Ctrl-C{' or q' if show else ''} ends it")
    told = _Told()
    ended: BaseException | None = None
    with ExitStack() as stack:
        writers = _writers(stack, args, places, source, stream.inferencer.expressions)
        frames, left_out = _frames(stack, source, args.camera is not None, show is not None)
        try:
            for item in stream.watch((frame.time, frame.picture) for frame in frames):
                told.add(item)
                for write in writers:
                    write(item)
                if show is not None and not show(item, source.info, left_out()):
                    break
        except BrokenPipeError:  # who reads the rows has enough
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the interpreter flushes it at its end
        except (KeyboardInterrupt, HOCPError) as error:  # what was told so far is whole
            ended = error
            if not told.frames:
                raise
    _tell(told.summary(source.where, left_out()))
    for place in places.values():
        print(place, file=sys.stderr)
    if ended is not None:
        raise ended


def _places(args: argparse.Namespace) -> dict[str, Path]:
    """Return the files that will be written, and refuse those that are there, or would be what is read.

    Raises:
        HOCPError: If one is there and ``--overwrite`` is not given, or is read; or ``--out`` cannot be written to.
    """
    if args.out is None:
        return {}
    require_writable(args.out, "--out")
    name = "pipe" if args.raw else args.video.stem if args.video else f"camera_{args.camera}"
    places = {"table": args.out / f"{name}{TABLE}"}
    if not args.no_video:
        places["video"] = args.out / f"{name}{OVERLAY}"
    for place in places.values():
        if os.path.lexists(place) and not args.overwrite:
            raise HOCPError(f"{place}: is there already; name another --out, or give --overwrite.")
        if args.video and os.path.realpath(place) == os.path.realpath(args.video):
            raise HOCPError(f"{place}: is read and would be written, too; name another --out.")
        if place.is_symlink():
            raise HOCPError(f"{place}: is a link, and what it leads to would be lost; name another --out.")
        require_writable_file(place, "--out")
    return places


def _frames(stack: ExitStack, source: Any, live: bool, in_time: bool) -> tuple[Iterable[Any], Callable[[], int]]:
    """Return the frames, and what tells how many of them were left out.

    Args:
        stack: Closes them.
        source: Where they come from.
        live: Take the newest alone.
        in_time: Give each frame not before its time, as somebody looks on.
    """
    from hocp_mm.apis.sources import Newest

    if live:
        newest = stack.enter_context(Newest(source))
        return newest, lambda: newest.left_out
    frames = source.frames()
    stack.callback(frames.close)
    return (_in_time(frames) if in_time else frames), lambda: 0


def _in_time(frames: Iterable[Any]) -> Iterator[Any]:
    start = time.monotonic()
    for frame in frames:
        time.sleep(max(0.0, start + frame.time - time.monotonic()))
        yield frame


def _writers(
    stack: ExitStack, args: argparse.Namespace, places: dict[str, Path], source: Any, expressions: tuple[str, ...]
) -> list[Callable[[Any], object]]:
    """Return what takes in every frame that something is said of."""
    from hocp_mm.visualization import OverlayWriter, face_marks

    writers: list[Callable[[Any], object]] = []
    if args.rows:
        writers.append(_Rows(sys.stdout, args.rows, expressions))
    if "table" in places:
        writers.append(stack.enter_context(_table(places["table"], expressions)))
    if "video" in places:
        info = source.info
        writer = stack.enter_context(
            OverlayWriter(
                places["video"], width=info.width, height=info.height, fps=info.fps, pixel_aspect=info.pixel_aspect
            )
        )
        writers.append(
            lambda item: writer.write(item.frame.picture, item.frame.time, face_marks(item.faces, item.affect))
        )
    return writers


@contextmanager
def _table(path: Path, expressions: tuple[str, ...]) -> Iterator[Callable[[Any], None]]:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = _Rows(file, "csv", expressions)

            def write(item: Any) -> None:
                with writing(path):  # or the film, which is open, too, would take the blame
                    rows(item)

            yield write


class _Rows:
    """Writes a row for everybody who is watched, an empty one where nobody is, each frame at once.

    The columns are those of `hocp_mm.structures.AffectTimeline` that are known at once, and the latency.
    """

    def __init__(self, file: Any, kind: str, expressions: tuple[str, ...]) -> None:
        self._file, self._expressions = file, expressions
        self._csv = csv.writer(file, lineterminator="\n") if kind == "csv" else None
        if self._csv is not None:
            self._csv.writerow(self._row(None, 0, None))
            file.flush()

    def __call__(self, item: Any) -> None:
        for person in item.affect or [0]:
            row = self._row(item, person, next((face for face in item.faces if face.person == person), None))
            if self._csv is None:
                self._file.write(f"{json.dumps(row)}\n")
            else:
                self._csv.writerow("" if value is None else value for value in row.values())
        self._file.flush()

    def _row(self, item: Any, person: int, face: Any) -> _Row:
        """Return a row; without a frame its names alone count."""
        affect = None if face is None else item.affect[person]
        box = (None,) * 4 if face is None or face.box is None else [round(float(edge), 2) for edge in face.box]
        row: _Row = {
            "frame": item and item.frame.number,
            "time_s": item and round(item.frame.time, 6),
            "valence": None if affect is None else round(float(affect[0]), 6),
            "arousal": None if affect is None else round(float(affect[1]), 6),
            "face_found": int(face is not None and face.seen),
            "person": person,
            "face_confidence": None if face is None or face.score != face.score else round(float(face.score), 4),
            **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        }
        if self._expressions:
            scores = None if item is None else item.scores.get(person)
            row["expression"] = None if scores is None else self._expressions[int(scores.argmax())]
        row["latency_ms"] = item and round(1e3 * item.latency, 2)
        return row if item is not None else dict(zip(row, row, strict=True))


class _Window:
    """Shows pictures with what is said of them; refuses at the door where this OpenCV cannot."""

    _TITLE = "hocp stream"

    def __init__(self) -> None:
        import cv2

        self._cv2, self._marker = cv2, None
        try:
            cv2.namedWindow(self._TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise MissingDataError(
                "--window: there must be a screen and an OpenCV that can draw on it (pip install opencv-python in the "
                f"place of a headless one); without, write with --out FOLDER or print with --rows csv ({reason:.120})."
            ) from error

    def __call__(self, item: Any, info: Any, left_out: int) -> bool:
        """Show a frame, and return whether to go on."""
        from hocp_mm.visualization import face_marks
        from hocp_mm.visualization.affect_marks import AffectMarker

        if self._marker is None:
            self._marker = AffectMarker(info.width, info.height, info.pixel_aspect)
        canvas = item.frame.picture.copy()
        self._marker.draw(canvas, item.frame.time, face_marks(item.faces, item.affect))
        words = f"{1e3 * item.latency:.0f} ms  {item.rate:.0f} frames/s" + (
            f"  {left_out} left out" if left_out else ""
        )
        place, size = (8, canvas.shape[0] - 10), max(canvas.shape[0] / 800, 0.4)
        for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            self._cv2.putText(canvas, words, place, self._cv2.FONT_HERSHEY_SIMPLEX, size, colour, thick)
        self._cv2.imshow(self._TITLE, self._cv2.cvtColor(canvas, self._cv2.COLOR_RGB2BGR))
        return (self._cv2.waitKey(1) & 0xFF) not in _QUIT


class _Told:
    """What there was, in numbers that do not grow."""

    def __init__(self) -> None:
        self.frames = self.with_face = 0
        self.people: set[int] = set()
        self._latencies: deque[float] = deque(maxlen=_RECENT)
        self._begin = time.monotonic()

    def add(self, item: Any) -> None:
        self.frames += 1
        self.with_face += bool(item.affect)
        self.people.update(item.affect)
        self._latencies.append(1e3 * item.latency)

    def summary(self, where: str, left_out: int) -> str:
        """Return a line."""
        took, latencies = time.monotonic() - self._begin, sorted(self._latencies)
        text = f"{where}: {self.frames} frames in {took:.1f} s ({self.frames / took:.1f} a second)"
        text += f", {100 * self.with_face / max(1, self.frames):.0f} % with a face"
        if latencies:
            middle, late = (latencies[int(part * (len(latencies) - 1))] for part in (0.5, 0.95))
            text += f", {middle:.0f} ms after they came (19 of 20 within {late:.0f})"
        return f"{text}, {left_out} left out" if left_out else text


def _tell(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text!r:.100}")
    return int(text)


def _rate(text: str) -> float:
    (number,) = options.numbers(text, 1, "a number above 0")
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r:.100}")
    return number


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and 0 < int(width) < 2**15 and 0 < int(height) < 2**15):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT in pixels, such as 640x480, got {text!r:.100}")
    return int(width), int(height)
