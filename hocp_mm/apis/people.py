"""Whom to watch in a video with several people, and what was seen of everybody."""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hocp_mm.apis.watching import Choose, Watched
from hocp_mm.datasets import VideoInfo
from hocp_mm.datasets.faces.following import Face, Followed
from hocp_mm.errors import NoFaceError
from hocp_mm.structures import AffectTimeline
from hocp_mm.system.files import write_rows

People = str | int | Sequence[float]


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
    """One person at a time: while she is there, nobody takes her place."""

    def __init__(self, find: Callable[[Iterable[Face]], Face | None]) -> None:
        self._find = find
        self._current: int | None = None

    def __call__(self, followed: Followed) -> list[int]:
        if self._current not in [face.person for face in followed.faces]:
            found = self._find(followed.faces)
            self._current = None if found is None else found.person
        return [] if self._current is None else [self._current]


def _area(face: Face) -> float:
    return np.inf if face.box is None else float((face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def _holds(face: Face, x: float, y: float) -> bool:
    if face.box is None:
        return True
    (x1, y1, x2, y2), half = face.box.tolist(), (face.box[2:] - face.box[:2]) / 4
    # The box is tight around brows, eyes and mouth; who points at a head means it, too.
    return bool(x1 - half[0] <= x <= x2 + half[0] and y1 - half[1] <= y <= y2 + half[1])


class _Row(NamedTuple):
    frame: int
    time: float
    person: int
    valence: float
    arousal: float
    seen: bool


class WatchLog:
    """What was seen in a video, kept in numbers while its frames go by.

    Args:
        video: The video.
        info: What is known of it.

    Attributes:
        frames: Frames so far.
        with_face: Frames in which somebody who is watched is seen, or out of sight no longer than may be bridged.
        cuts: Cuts so far.
        people: Frames in which each person is, watched or not.
    """

    def __init__(self, video: str | Path, info: VideoInfo) -> None:
        self.video, self.info = Path(video), info
        self.frames = self.with_face = self.cuts = 0
        self.people: Counter[int] = Counter()
        self._rows: list[_Row] = []
        self._times: list[float] = []

    def add(self, watched: Watched) -> None:
        """Take in the next frame."""
        self.frames += 1
        self.cuts += watched.cut
        self._times.append(watched.frame.time)
        self.people.update(face.person for face in watched.faces)
        seen = {face.person: face.seen for face in watched.faces}
        for person, affect in watched.affect.items():
            valence, arousal = affect.tolist()
            row = _Row(watched.frame.number, watched.frame.time, person, valence, arousal, seen[person])
            self._rows.append(row)
        self.with_face += bool(watched.affect)

    def fill(self, watched: Generator[Watched, None, None]) -> None:
        """Take in all frames of a video, one after the other."""
        with contextlib.closing(watched):  # with its thread, whatever ends the loop
            for frame in watched:
                self.add(frame)

    def summary(self) -> str:
        """Return how much of the video shows a face, how many people and cuts there are, and who was left out."""
        share, people = 100 * self.with_face / max(1, self.frames), _count(len(self.people), "person")
        text = f"{self.with_face} of {self.frames} frames ({share:.0f} %) with a face, {people}"
        watched = sorted({row.person for row in self._rows})
        if left := sorted(set(self.people) - set(watched)):
            told = ", ".join(f"person {person} ({self.people[person]} frames)" for person in left[:5])
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            text += f" (watched: {', '.join(map(str, watched[:5])) or 'nobody'}; not watched: {told}{more})"
        return f"{text}, {_count(self.cuts, 'cut')}"

    def facts(self) -> dict[str, Any]:
        """Return the same in numbers, of types that JSON knows."""
        return {
            "frames": self.frames,
            "seconds": self._times[-1] if self._times else 0.0,
            "fps": self.info.fps,
            "frames_with_face": self.with_face,
            "people": {str(person): count for person, count in sorted(self.people.items())},
            "watched": sorted({row.person for row in self._rows}),
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
        if not self._rows:
            raise NoFaceError(f"{self.video}: no face found in {self.frames} frames.")
        pred = np.full((self.frames, 2), np.nan, np.float32)
        found = np.zeros(self.frames, np.bool_)
        person = np.zeros(self.frames, np.int64)
        for row in self._rows:
            pred[row.frame], found[row.frame], person[row.frame] = (row.valence, row.arousal), row.seen, row.person
        return AffectTimeline(
            video=self.video.stem,
            fps=self.info.fps,
            frames=np.arange(self.frames),
            pred=pred,
            face_found=found,
            times=np.array(self._times) if self.info.variable else None,
            person=person if told_apart else None,
        )

    def timelines(self) -> dict[int, AffectTimeline]:
        """Return the affect of each person who is watched, by number: a row for every frame in which she is."""
        rows_of: dict[int, list[_Row]] = {}
        for row in self._rows:
            rows_of.setdefault(row.person, []).append(row)
        found = {}
        for person, rows in sorted(rows_of.items()):
            found[person] = AffectTimeline(
                video=self.video.stem,
                fps=self.info.fps,
                frames=np.array([row.frame for row in rows]),
                pred=np.array([(row.valence, row.arousal) for row in rows]),
                face_found=np.array([row.seen for row in rows]),
                times=np.array([row.time for row in rows]) if self.info.variable else None,
                person=np.full(len(rows), person),
            )
        return found

    def write_people(self, path: str | Path) -> Path:
        """Write the affect of all people who are watched to one CSV file, by frame and person.

        Columns: ``frame,time_s,person,valence,arousal,face_found``.

        Args:
            path: CSV file; its folder is created.

        Returns:
            The path written.
        """
        path = Path(path)
        rows = [
            [
                str(r.frame),
                str(r.time),
                str(r.person),
                str(np.float32(r.valence)),
                str(np.float32(r.arousal)),
                str(int(r.seen)),
            ]
            for r in self._rows
        ]
        write_rows(path, [["frame", "time_s", "person", "valence", "arousal", "face_found"], *rows])
        return path


def _count(number: int, what: str) -> str:
    plural = {"person": "people"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else plural}"
