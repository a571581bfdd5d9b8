"""All people of a video, followed while its frames go by.

    frames -> cuts -> a look every fifth of a second -> tracks -> the faces of every frame, a moment later

A track is one person from one cut to the next. A face that is not seen for as long as a clip may bridge is gone, and
nothing is said of it; one that comes back to its place is the same person, one that comes elsewhere is another. Nobody
is recognised across a cut: who looks alike need not be the same.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import square_boxes
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.datasets.faces.crops import square_pixels, square_scale
from hocp_mm.datasets.faces.detection import FaceDetector
from hocp_mm.datasets.media.cuts import CutFinder

LOOK_SECONDS = 0.2
_LINK_MARGIN = 1.5  # squares of faces, not boxes of brows to mouth, overlap while a head moves
_SAME_PLACE = 0.1  # least overlap of one person's squares from one look to the next
_SAME_PLACE_LATER = 0.3  # and after a gap, in which another may have come
_GOES_ON_SECONDS, _GOES_ON_LOOKS = 0.6, 3  # for which somebody out of sight is thought to go on as before
_STOPPED = 0.5  # how much less it speaks for somebody that a face is where she was, not where she was going
_LARGER = 1.8  # a face grows no more than this from one look to the next
_MEMORY_SECONDS = 10.0  # of looks without her, for which somebody keeps her number
_GAP_LOOKS = 1.5  # no shorter time out of sight is a gap
_SURE = 2  # looks that make a person of a detection: chance does not strike twice in one place


class Frame(NamedTuple):
    """One frame of a video.

    Attributes:
        number: From 0.
        time: When it is shown, in seconds after the first.
        picture: RGB as read from the file, uint8 ``[H, W, 3]``.
    """

    number: int
    time: float
    picture: NDArray[np.uint8]


class Face(NamedTuple):
    """The face of one person in one frame.

    Attributes:
        person: Number of the person, from 1, in the order of appearance.
        box: (x1, y1, x2, y2) in pixels of the file, tight around the inner landmarks, float32 ``[4]``; None where the
            whole frame is the face.
        seen: False where the box is only interpolated.
        score: How sure the detector is, between two of its looks interpolated; 0 where she is not seen, NaN where no
            detector looked.
    """

    person: int
    box: NDArray[np.float32] | None
    seen: bool
    score: float = math.nan


class Followed(NamedTuple):
    """A frame and who is in it.

    Attributes:
        frame: The frame.
        faces: Everybody, by number.
        cut: Whether a cut lies before it.
    """

    frame: Frame
    faces: tuple[Face, ...]
    cut: bool


@dataclass(eq=False)
class _Track:
    """One person between two cuts, as far as she was seen.

    Attributes:
        times: When she was seen in a look.
        boxes: Where, in square pixels.
        scores: How sure the detector was.
        until: Time of the next look after each of these.
        person: Her number, once she is shown.
    """

    times: list[float] = field(default_factory=list)
    boxes: list[NDArray[np.float32]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    until: list[float] = field(default_factory=list)
    person: int = 0

    def expected(self, time: float) -> NDArray[np.float32]:
        """Return where she would be if she went on as before, for a short time."""
        if len(self.times) < 2:
            return self.boxes[-1]
        ahead = min(time - self.times[-1], _GOES_ON_SECONDS) / (self.times[-1] - self.times[-2])
        way = (self.boxes[-1] - self.boxes[-2]).reshape(2, 2).mean(axis=0)  # of the centre
        return self.boxes[-1] + np.float32(min(ahead, _GOES_ON_LOOKS)) * np.tile(way, 2)

    def forget(self, before: float) -> None:
        """Drop what lies before a time, but for the last look and that before the time."""
        while len(self.times) > 2 and self.times[1] <= before:
            for own in (self.times, self.boxes, self.scores, self.until):
                del own[0]


class _Follower:
    """Tracks of one video; see `follow_faces`."""

    def __init__(self, detector: FaceDetector, bridge: float, pixel_aspect: float) -> None:
        self.detector = detector
        self.bridge = bridge
        self.pixel_aspect = pixel_aspect
        self.scale = np.array(2 * square_scale(pixel_aspect), dtype=np.float32)
        self.tracks: list[_Track] = []
        self.people = 0
        self.look_time = -np.inf
        self.looks = 0  # in the scene

    def scene(self) -> None:
        """Begin anew behind a cut."""
        self.tracks, self.look_time, self.looks = [], -np.inf, 0

    def look(self, frame: Frame) -> None:
        """Find the faces of a frame, and give each to the person who was there."""
        found = self.detector(square_pixels(frame.picture, self.pixel_aspect))
        for track in self.tracks:
            if track.times[-1] == self.look_time:
                track.until[-1] = frame.time
        # Up to the look before: while a film stands still nobody is missed. Frames that are held still ask for theirs.
        oldest = self.look_time - max(_MEMORY_SECONDS, self.bridge)
        self.tracks = [track for track in self.tracks if track.until[-1] >= oldest]
        likeness = self._likeness(found.boxes, frame.time)
        taken: set[int] = set()
        given: set[int] = set()
        pairs = np.argwhere(likeness > 0)
        for t, d in pairs[np.argsort(-likeness[tuple(pairs.T)], kind="stable")].tolist():
            if t not in taken and d not in given:
                taken.add(t)
                given.add(d)
                self._add(self.tracks[t], found, d, frame.time)
        for d in sorted(set(range(len(found.boxes))) - given, key=lambda d: -float(found.scores[d])):
            track = _Track()
            self.tracks.append(track)
            self._add(track, found, d, frame.time)
        self.look_time = frame.time
        self.looks += 1

    def _likeness(self, boxes: NDArray[np.float32], time: float) -> NDArray[np.float64]:
        """Return how well each face ``[D, 4]`` may be the next one of each track, ``[T, D]``; 0 if it may not."""
        if not self.tracks or not len(boxes):
            return np.zeros((len(self.tracks), len(boxes)))
        last = square_boxes(np.array([track.boxes[-1] for track in self.tracks]), _LINK_MARGIN)
        # Who walks past another is where she was going, not where she was.
        ahead = square_boxes(np.array([track.expected(time) for track in self.tracks]), _LINK_MARGIN)
        squares = square_boxes(boxes, _LINK_MARGIN)
        stayed, moved = _overlaps(last, squares), _overlaps(ahead, squares)
        times = np.array([track.times[-1] for track in self.tracks])[:, None]
        least = np.where(times == self.look_time, _SAME_PLACE, _SAME_PLACE_LATER)
        own, new = (last[:, 2] - last[:, 0])[:, None], squares[:, 2] - squares[:, 0]
        may_be = (np.maximum(own, new) <= _LARGER * np.minimum(own, new)) & (np.maximum(stayed, moved) >= least)
        # Who was just there comes first.
        return np.where(may_be, np.maximum(moved, _STOPPED * stayed) / (1 + time - times), 0.0)

    @staticmethod
    def _add(track: _Track, found: Detections, number: int, time: float) -> None:
        track.times.append(time)
        track.boxes.append(np.asarray(found.boxes[number], dtype=np.float32))
        track.scores.append(float(found.scores[number]))
        track.until.append(np.inf)

    def is_known(self, time: float, now: float) -> bool:
        """Return whether nothing can come that changes what is said of a moment."""
        return self.look_time > time and now - time > self.bridge

    def faces(self, time: float, ended: bool) -> tuple[Face, ...]:
        """Return who is there at a time that is known, or after the scene has ended."""
        faces = []
        for track in self.tracks:
            # A single look is believed where the scene is so short that there was no other.
            if track.person == 0 and len(track.times) < _SURE and not (ended and self.looks < _SURE):
                continue
            if (spot := self._spot(track, time)) is None:
                continue
            if track.person == 0:
                self.people += 1
                track.person = self.people
            box, seen, score = spot
            faces.append(Face(track.person, (box / self.scale).astype(np.float32), seen, score))
            track.forget(time)
        return tuple(sorted(faces, key=lambda face: face.person))

    def faces_now(self, time: float) -> tuple[Face, ...]:
        """Return who is there at the time of the last frame, as far as looks up to then can tell."""
        faces = []
        for track in self.tracks:
            if track.person == 0 and len(track.times) < _SURE:
                continue
            seen, away = time < track.until[-1], time - track.times[-1]
            # As long as she could still come back without a gap.
            if not seen and away > (1 + 1e-6) * max(self.bridge, _GAP_LOOKS * (track.until[-1] - track.times[-1])):
                continue
            if track.person == 0:
                self.people += 1
                track.person = self.people
            box = (track.boxes[-1] / self.scale).astype(np.float32)
            faces.append(Face(track.person, box, seen, track.scores[-1] if seen else 0.0))
            track.forget(time)
        return tuple(sorted(faces, key=lambda face: face.person))

    def _spot(self, track: _Track, time: float) -> tuple[NDArray[np.float32], bool, float] | None:
        """Return where somebody is at a time, whether she was seen there, and how surely; None where she is not."""
        after = int(np.searchsorted(track.times, time, side="right"))
        if after == 0:
            return None
        last = after - 1
        seen = time < track.until[last]
        there = (track.boxes[last], True, track.scores[last]) if seen else None
        if after == len(track.times):
            return there
        gap = track.times[after] - track.times[last]
        if gap > max(self.bridge, _GAP_LOOKS * (track.until[last] - track.times[last])):
            return there
        share = np.float32((time - track.times[last]) / gap)
        box = track.boxes[last] + share * (track.boxes[after] - track.boxes[last])
        score = track.scores[last] + float(share) * (track.scores[after] - track.scores[last])
        return box, seen, score if seen else 0.0


def _overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the intersection over union of each of some squares ``[N, 4]`` with each of others ``[M, 4]``."""
    one, other = a[:, None].astype(np.float64), b[None].astype(np.float64)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = np.clip(sides, 0, None).prod(axis=2)
    areas = ((square[..., 2:] - square[..., :2]).prod(axis=2) for square in (one, other))
    return common / np.maximum(sum(areas) - common, np.finfo(float).tiny)


class FaceFollower:
    """Everybody in the frames of a video, which are given one by one; see `follow_faces`.

    Args:
        detector: See `follow_faces`.
        bridge: See `follow_faces`.
        pixel_aspect: See `follow_faces`.
        look: See `follow_faces`.
        live: Say of each frame at once who is in it, as far as that is known then. Boxes are those of the last look.
            Somebody new is there from her second look on; who was not found in a look is thought to be where she was,
            not seen, up to ``bridge`` seconds after she was; a cut is found one frame late.
    """

    def __init__(
        self,
        detector: FaceDetector,
        bridge: float,
        pixel_aspect: float = 1.0,
        look: float = LOOK_SECONDS,
        live: bool = False,
    ) -> None:
        self._follower = _Follower(detector, bridge, pixel_aspect)
        self._look, self._live = look, live
        self._cuts = CutFinder()
        self._next: Frame | None = None  # of which it is not known yet whether a cut lies before it
        self._held: deque[tuple[Frame, bool]] = deque()

    def push(self, frame: Frame) -> Iterator[Followed]:
        """Take in the next frame, and yield those of which nothing can change any more."""
        cut = self._cuts.push(frame.picture)
        if self._live:
            if cut:
                self._follower.scene()
            self._look_at(frame)
            yield Followed(frame, self._follower.faces_now(frame.time), cut)
            return
        before, self._next = self._next, frame
        if before is not None:
            yield from self._take(before, cut)

    def end(self) -> Iterator[Followed]:
        """Yield the frames that are left at the end of the video."""
        if self._next is not None:
            yield from self._take(self._next, self._cuts.end())
        yield from self._let_go()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept of the video, as numbers, arrays, lists and dicts; the detector keeps nothing."""
        own = self._follower
        return {
            "cuts": self._cuts.state_dict(),
            "next": self._next and [*self._next],
            "held": [[*frame, cut] for frame, cut in self._held],
            "tracks": [vars(track) for track in own.tracks],
            "people": own.people,
            "look_time": own.look_time,
            "looks": own.looks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken."""
        own = self._follower
        self._cuts.load_state_dict(state["cuts"])
        self._next = state["next"] and Frame(*state["next"])
        self._held = deque((Frame(*frame), cut) for *frame, cut in state["held"])
        own.tracks = [
            _Track([*track["times"]], [*track["boxes"]], [*track["scores"]], [*track["until"]], track["person"])
            for track in state["tracks"]
        ]
        own.people, own.look_time, own.looks = state["people"], state["look_time"], state["looks"]

    def _take(self, frame: Frame, cut: bool) -> Iterator[Followed]:
        follower = self._follower
        if cut:
            yield from self._let_go()
            follower.scene()
        self._held.append((frame, cut))
        self._look_at(frame)
        while self._held and follower.is_known(self._held[0][0].time, frame.time):
            old, first = self._held.popleft()
            yield Followed(old, follower.faces(old.time, False), first)

    def _let_go(self) -> Iterator[Followed]:
        yield from (Followed(old, self._follower.faces(old.time, True), first) for old, first in self._held)
        self._held.clear()

    def _look_at(self, frame: Frame) -> None:
        if frame.time >= self._follower.look_time + self._look * (1 - 1e-3):
            self._follower.look(frame)


def follow_faces(
    frames: Iterable[Frame],
    detector: FaceDetector,
    bridge: float,
    pixel_aspect: float = 1.0,
    look: float = LOOK_SECONDS,
) -> Iterator[Followed]:
    """Yield every frame with everybody who is in it, about ``bridge`` seconds after it came in.

    Args:
        frames: The frames, in order; those between this one and the last that was yielded are held.
        detector: See `make_detector`.
        bridge: Seconds for which somebody may be out of sight; her box is interpolated there.
        pixel_aspect: Width of a pixel over its height; detectors, which know faces of natural width, see square ones.
        look: Seconds from one look of the detector to the next; a face that is seen in one is seen up to the next.

    Yields:
        Frames in order. Boxes between two looks are interpolated.
    """
    follower = FaceFollower(detector, bridge, pixel_aspect, look)
    for frame in frames:
        yield from follower.push(frame)
    yield from follower.end()
