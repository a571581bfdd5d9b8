"""Whom to watch in a video with several people, and what was seen of everybody."""

import contextlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.apis.smoothing import smooth_over_time
from hocp_mm.apis.watching import Choose, Watched
from hocp_mm.datasets import VideoInfo
from hocp_mm.datasets.faces.following import Face, Followed
from hocp_mm.errors import NoFaceError
from hocp_mm.structures import AffectTimeline
from hocp_mm.structures.tables import WRITERS
from hocp_mm.structures.timeline import COLUMNS

People = str | int | Sequence[float]
SMOOTH_SECONDS = 0.2  # as labels that a network gives (see `hocp_mm.apis.Teacher`)
_BOX = COLUMNS["boxes"]
_NOWHERE = (np.nan,) * 4
_EMPTY = {"face_confidence": np.nan, "boxes": np.nan, "smoothed": np.nan, "expression": ""}


def choose_people(person: People) -> Choose:
    """Return who is watched in each frame of a video; ask it for one frame after the other.

    Args:
        person: ``"largest"``: whoever fills most of the picture when nobody is watched, for as long as she is there;
            ``"all"``; a number, in the order of appearance; or a point (x, y) in pixels of the file: whoever is at it
            when nobody is watched, for as long as she is there.

    Returns:
        A callable that takes a frame with faces and returns numbers of people.

    Raises:
        ValueError: If ``person`` is none of these.
    """
    if person == "largest":
        return _One(lambda faces: max(faces, key=_area, default=None))
    if person == "all":
        return lambda followed: [face.person for face in followed.faces]
    if isinstance(person, int) and not isinstance(person, bool) and person >= 1:
        return lambda followed: [face.person for face in followed.faces if face.person == person]
    if not isinstance(person, str | int) and len(person) == 2:
        x, y = (float(value) for value in person)
        return _One(lambda faces: next((face for face in faces if _holds(face, x, y)), None))
    raise ValueError(f"person: must be 'largest', 'all', a number from 1 or a point (x, y), got {person!r:.100}.")


class _One:
    """One person at a time: while she is there, nobody takes her place.

    Attributes:
        current: Her number.
    """

    def __init__(self, find: Callable[[Iterable[Face]], Face | None]) -> None:
        self._find = find
        self.current: int | None = None

    def __call__(self, followed: Followed) -> list[int]:
        if self.current not in [face.person for face in followed.faces]:
            found = self._find(followed.faces)
            self.current = None if found is None else found.person
        return [] if self.current is None else [self.current]


def _area(face: Face) -> float:
    return np.inf if face.box is None else float((face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def _holds(face: Face, x: float, y: float) -> bool:
    if face.box is None:
        return True
    (x1, y1, x2, y2), half = face.box.tolist(), (face.box[2:] - face.box[:2]) / 4
    # The box is tight around brows, eyes and mouth; who points at a head means it, too.
    return bool(x1 - half[0] <= x <= x2 + half[0] and y1 - half[1] <= y <= y2 + half[1])


class WatchLog:
    """What was seen in a video, kept in numbers while its frames go by: 80 bytes for a face in a frame.

    Args:
        video: The video.
        info: What is known of it.
        smooth: Standard deviation of the Gaussian of the smoothed values, in seconds (see `smooth_over_time`).
        expressions: Names of the expressions that the network tells, in the order of its scores.

    Attributes:
        frames: Frames so far.
        with_face: Frames in which somebody who is watched is seen, or out of sight no longer than may be bridged.
        cuts: Cuts so far.
        people: Frames in which each person is, watched or not.

    Raises:
        ValueError: If ``smooth`` is below 0.
    """

    def __init__(
        self,
        video: str | Path,
        info: VideoInfo,
        smooth: float = SMOOTH_SECONDS,
        expressions: Sequence[str] = (),
    ) -> None:
        if not 0 <= smooth < np.inf:
            raise ValueError(f"smooth: must be 0 seconds or more, got {smooth!r}.")
        self.video, self.info = Path(video), info
        self.frames = self.with_face = self.cuts = 0
        self.people: Counter[int] = Counter()
        self._smooth, self._expressions = smooth, tuple(expressions)
        self._times = array("d")  # of every frame
        # Of everybody who is watched, in every frame; arrays, as a tuple takes five times their memory.
        self._whole = {name: array("q") for name in ("frame", "person", "scene", "seen", "expression")}
        self._real = {name: array("f") for name in ("valence", "arousal", "score", *_BOX)}

    def add(self, watched: Watched) -> None:
        """Take in the next frame."""
        self.frames += 1
        self.cuts += watched.cut
        self._times.append(watched.frame.time)
        self.people.update(face.person for face in watched.faces)
        faces = {face.person: face for face in watched.faces}
        for person, affect in watched.affect.items():
            face, scores = faces[person], watched.scores.get(person)
            best = -1 if scores is None or not self._expressions else int(scores.argmax())
            whole = (watched.frame.number, person, self.cuts, int(face.seen), best)
            for column, value in zip(self._whole.values(), whole, strict=True):
                column.append(value)
            box = _NOWHERE if face.box is None else face.box.tolist()
            for column, number in zip(self._real.values(), (*affect[:2].tolist(), face.score, *box), strict=True):
                column.append(number)
        self.with_face += bool(watched.affect)

    def fill(self, watched: Generator[Watched, None, None]) -> None:
        """Take in all frames of a video, one after the other."""
        with contextlib.closing(watched):  # with its thread, whatever ends the loop
            for frame in watched:
                self.add(frame)

    @property
    def seconds(self) -> float:
        """When the last frame so far is shown."""
        return self._times[-1] if self._times else 0.0

    def mean(self) -> tuple[float, float]:
        """Return mean valence and arousal of all who are watched; NaN for nobody."""
        columns = [self._real[name] for name in ("valence", "arousal")]
        valence, arousal = (sum(column) / len(column) if column else math.nan for column in columns)
        return valence, arousal

    @property
    def watched(self) -> list[int]:
        """Numbers of those who were watched."""
        return sorted(set(self._whole["person"]))

    def summary(self) -> str:
        """Return how much of the video shows a face, how many people and cuts there are, and who was left out."""
        share, people = 100 * self.with_face / max(1, self.frames), _count(len(self.people), "person")
        text = f"{self.with_face} of {self.frames} frames ({share:.0f} %) with a face, {people}"
        watched = self.watched
        if left := sorted(set(self.people) - set(watched)):
            told = ", ".join(f"person {person} ({self.people[person]} frames)" for person in left[:5])
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            text += f" (watched: {', '.join(map(str, watched[:5])) or 'nobody'}; not watched: {told}{more})"
        return f"{text}, {_count(self.cuts, 'cut')}"

    def facts(self) -> dict[str, Any]:
        """Return the same in numbers, of types that JSON knows."""
        return {
            "frames": self.frames,
            "seconds": self.seconds,
            "fps": self.info.fps,
            "frames_with_face": self.with_face,
            "people": {str(person): count for person, count in sorted(self.people.items())},
            "watched": self.watched,
            "cuts": self.cuts,
        }

    def empty_timeline(self) -> AffectTimeline:
        """Return a timeline of all frames of the video, in which nobody is seen."""
        frames = np.arange(self.info.num_frames)
        return AffectTimeline(self.video.stem, self.info.fps, frames, np.full((len(frames), 2), np.nan))

    def timeline(self, told_apart: bool = True) -> AffectTimeline:
        """Return the affect of one person at a time: a row for every frame, NaN where nobody is watched.

        Args:
            told_apart: Say whose face each row is.

        Raises:
            NoFaceError: If nobody is seen in any frame.
        """
        rows = self._rows()
        if not len(rows["frame"]):
            raise NoFaceError(f"{self.video}: no face found in {self.frames} frames.")

        def spread(values: NDArray[Any], empty: Any) -> NDArray[Any]:
            column = np.full((self.frames, *values.shape[1:]), empty, values.dtype)
            column[rows["frame"]] = values
            return column

        return AffectTimeline(
            video=self.video.stem,
            fps=self.info.fps,
            frames=np.arange(self.frames),
            pred=spread(rows["pred"], np.nan),
            face_found=spread(rows["seen"], False),
            times=np.array(self._times) if self.info.variable else None,
            person=spread(rows["person"], 0) if told_apart else None,
            **{name: spread(column, _EMPTY[name]) for name, column in self._more(rows).items()},
        )

    def timelines(self) -> dict[int, AffectTimeline]:
        """Return the affect of each person who is watched, by number: a row for every frame in which she is."""
        rows, found = self._rows(), {}
        for person in self.watched:
            own = {name: column[rows["person"] == person] for name, column in rows.items()}
            found[person] = AffectTimeline(
                video=self.video.stem,
                fps=self.info.fps,
                frames=own["frame"],
                pred=own["pred"],
                face_found=own["seen"],
                times=own["time"] if self.info.variable else None,
                person=own["person"],
                **self._more(own),
            )
        return found

    def write_people(self, path: str | Path) -> Path:
        """Write the affect of all people who are watched to one table, by frame and person.

        Columns: ``frame,time_s,person,valence,arousal,face_found``, and behind them those of `AffectTimeline.to_csv`.

        Args:
            path: CSV, JSON or Parquet file, by the end of its name; its folder is created.

        Returns:
            The path written.

        Raises:
            MissingDataError: If what writes such a file is not installed.
        """
        path, rows = Path(path), self._rows()
        columns: dict[str, NDArray[Any]] = {
            "frame": rows["frame"],
            "time_s": rows["time"],
            "person": rows["person"],
            "valence": rows["pred"][:, 0],
            "arousal": rows["pred"][:, 1],
            "face_found": rows["seen"],
        }
        # The same names as in the table of one.
        for name, column in self._more(rows).items():
            names = COLUMNS[name]
            columns |= dict(zip(names, column.T if len(names) > 1 else [column], strict=True))
        WRITERS[path.suffix](path, columns, {"video": self.video.stem, "fps": self.info.fps}, True)
        return path

    def _rows(self) -> dict[str, NDArray[Any]]:
        """Return a row for everybody who is watched in every frame, by frame and person."""
        whole = {name: np.array(column, dtype=np.int64) for name, column in self._whole.items()}
        real = {name: np.array(column, dtype=np.float32) for name, column in self._real.items()}
        times, pred = np.array(self._times)[whole["frame"]], np.stack([real["valence"], real["arousal"]], axis=1)
        smoothed = np.full_like(pred, np.nan)
        for person in self.watched:
            own = np.flatnonzero(whole["person"] == person)
            breaks = (np.diff(whole["frame"][own]) > 1) | (np.diff(whole["scene"][own]) > 0)
            scenes = np.concatenate(([0], np.cumsum(breaks)))
            smoothed[own] = np.clip(smooth_over_time(pred[own], times[own], self._smooth, scenes), -1, 1)
        return {
            "frame": whole["frame"],
            "time": times,
            "person": whole["person"],
            "seen": whole["seen"] > 0,
            "pred": pred,
            "smoothed": smoothed,
            "face_confidence": real["score"],
            "boxes": np.stack([real[name] for name in _BOX], axis=1),
            "expression": np.array([*self._expressions, ""])[whole["expression"]],
        }

    def _more(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the columns that a timeline may do without: of what is known in this video."""
        known = {name: np.isfinite(rows[name]).any() for name in ("face_confidence", "boxes")}
        known |= {"smoothed": True, "expression": bool(self._expressions)}
        return {name: rows[name] for name in COLUMNS if known[name]}


def _count(number: int, what: str) -> str:
    plural = {"person": "people"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else plural}"
