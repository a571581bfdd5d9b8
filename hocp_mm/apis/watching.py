"""From frames with faces to affect, while the frames go by.

    followed frames -> whom to watch -> smooth boxes, crops -> windows of moments -> network -> values of each frame

A `Scene` is one person from her appearance to a cut, a gap or the end. Boxes are smoothed, and windows laid, within it
and never across; what the network says of a moment is the mean of all windows that hold it, and a frame between two
moments has the value between theirs. All of it is done as in training and in test (`LoadFaceClip`, `window_starts`,
`WindowAverager`), only that no more is held than what is still to come may need.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import smoothing_window, square_boxes
from hocp_mm.datasets.faces.crops import check_face, crop_frame, square_scale, whole_square
from hocp_mm.datasets.faces.following import Face, Followed, Frame
from hocp_mm.errors import CheckpointError, HOCPError
from hocp_mm.launch import ClipRule

Clip = NDArray[np.uint8]
"""Crops of a window, RGB ``[T, S, S, 3]``."""
Predict = Callable[[Sequence[Clip]], NDArray[np.float32]]
"""Returns valence and arousal of each frame of each window, ``[B, T, 2]``, or of two views of it, ``[B, T, 4]``; behind
them the probabilities of expressions, if the network tells any."""
Choose = Callable[[Followed], Iterable[int]]
"""Returns the numbers of those in a frame who are to be watched."""
_MOST_WAITING = 2**28  # bytes of pictures that may wait for a batch to fill
_FRAME_BYTES = 2**12  # of what is held of a frame beside its picture
_STILL_SECONDS = 1.0  # for which one picture may stand


@dataclass
class Watched:
    """A frame, who is in it, and what the network says of those who are watched.

    Attributes:
        frame: The frame.
        faces: Everybody in it.
        cut: Whether a cut lies before it.
        affect: Valence and arousal by person, in [-1, 1]; of two views, if they were asked for.
        scores: Probabilities of the expressions by person, ``[K]``, where the network tells them.
        squares: What was cut of the frame, by person: (x1, y1, x2, y2) in pixels of the file.
    """

    frame: Frame
    faces: tuple[Face, ...]
    cut: bool
    affect: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    scores: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    squares: dict[int, NDArray[np.float32]] = field(default_factory=dict)


class _Windows:
    """The moments of a scene at the rate of the network, and the windows over them.

    Windows start every ``stride`` moments; the last one is moved back to end with the scene, and only a scene shorter
    than a window is filled up by its last crop. The same windows as those of `window_starts`.
    """

    def __init__(self, clip_len: int, stride: int) -> None:
        self.clip_len, self.stride = clip_len, stride
        self.count = 0
        self.closed = False
        self._crops: deque[Clip] = deque(maxlen=clip_len)
        self._next = 0  # start of the next window
        self._waiting: list[int] = []  # starts of windows that the network has not answered for
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._counts: dict[int, int] = {}

    def add(self, crop: Clip) -> list[tuple[int, Clip]]:
        """Take in the crop of the next moment, and return the window that it completes, if any: start and crops."""
        self._crops.append(crop)
        self.count += 1
        return [self._window(self._next)] if self.count == self._next + self.clip_len else []

    def close(self, last_crop: Clip) -> list[tuple[int, Clip]]:
        """Return the last window, if it is still to come, filled up by the last crop of the scene."""
        self.closed = True
        last = max(0, self.count - self.clip_len)
        done = self._next - self.stride
        self._crops.extend([last_crop] * (self.clip_len - self.count))
        return [] if self.count == 0 or done == last else [self._window(last)]

    def _window(self, start: int) -> tuple[int, Clip]:
        self._waiting.append(start)
        self._next = start + self.stride
        return start, np.stack(self._crops)

    def take(self, start: int, values: NDArray[np.float32]) -> None:
        """Take in what the network says of a window, a row for each of its moments."""
        self._waiting.remove(start)
        for step in range(start, min(start + self.clip_len, self.count)):
            self._sums[step] = self._sums.get(step, 0.0) + values[step - start].astype(np.float64)
            self._counts[step] = self._counts.get(step, 0) + 1

    @property
    def known(self) -> int:
        """Moments before this one have their final value."""
        coming = self.count if self.closed else self.count - self.clip_len
        return min([coming, *self._waiting])

    def value(self, step: int) -> NDArray[np.float64]:
        """Return the mean over all windows that hold a moment."""
        return self._sums[step] / self._counts[step]

    def forget(self, before: int) -> None:
        """Drop the values of moments that nobody asks for any more."""
        for step in [step for step in self._sums if step < before]:
            del self._sums[step], self._counts[step]


class Steps(Protocol):
    """The moments of a scene, each with its crop, and what the network says of them.

    Attributes:
        count: Moments so far.
        closed: Whether there will be no more.
    """

    count: int
    closed: bool

    def add(self, crop: Clip) -> list[tuple[int, Clip]]:
        """Take in the crop of the next moment; return what the network is to be asked now, with its first moment."""
        ...

    def close(self, last_crop: Clip) -> list[tuple[int, Clip]]:
        """Take in that there are no more; return what is still to be asked."""
        ...

    @property
    def known(self) -> int:
        """Moments before this one have their final value."""
        ...

    def value(self, step: int) -> NDArray[np.float64]:
        """Return what the network says of a moment."""
        ...

    def forget(self, before: int) -> None:
        """Drop what nobody asks for any more."""
        ...


Window = tuple[Any, int, Clip]
"""Whose window it is, its start and its crops."""


class Scene:
    """One person, from her appearance to a cut, a gap or the end.

    What it yields must be taken one by one: a frame may complete very many windows, which would not fit in memory.

    Args:
        rule: Crop and windows.
        steps: Where its moments go, one after the other in turns where each is of a few frames.
        fps: Frames per second of the video.
        pixel_aspect: Width of a pixel over its height.
        where: The video, for messages.
        live: Wait for no frame: the average of boxes has no future, and a moment takes the frame that is nearest if
            the next one comes as soon as usual.
    """

    def __init__(
        self,
        rule: ClipRule,
        steps: Sequence[Steps],
        fps: float,
        pixel_aspect: float = 1.0,
        where: str = "the video",
        live: bool = False,
    ) -> None:
        self.rule, self.aspect, self.where, self.live = rule, pixel_aspect, where, live
        self.reach = smoothing_window(rule.smooth, fps) // 2
        self.steps = steps
        self.begin = 0.0
        self.count = self.cut = 0  # frames that came in, that were cropped
        self._boxes: deque[NDArray[np.float32] | None] = deque()  # of frames from cut - reach on
        self._frames: deque[Frame] = deque()  # of frames from cut on
        self._last: tuple[float, Clip] | None = None  # time and crop of the frame before, whose moments are not settled
        self._usual_gap = self._gap = min(1 / fps, longest_still(rule, fps))
        self._places: dict[int, tuple[int, float]] = {}  # frame -> sequence, position in it
        self.squares: dict[int, NDArray[np.float32]] = {}  # frame -> what was cut of it, in its own pixels

    def add(self, frame: Frame, box: NDArray[np.float32] | None) -> Iterator[Window]:
        """Take in the next frame, and yield the windows that are complete now."""
        if self.count == 0:
            self.begin = frame.time
        self._boxes.append(box)
        self._frames.append(frame)
        self.count += 1
        yield from self._crop(self.count if self.live else self.count - self.reach)

    def close(self) -> Iterator[Window]:
        """Yield the windows that the end completes."""
        yield from self._crop(self.count)
        assert self._last is not None
        time, crop = self._last
        if self.rule.fps is not None:
            yield from self._settle(time + self._gap / 2)
        for own in self.steps:
            for window in own.close(crop):
                yield own, *window

    def _crop(self, end: int) -> Iterator[Window]:
        """Cut the frames before ``end``, whose smoothed boxes are known."""
        while self.cut < end:
            frame = self._frames.popleft()
            crop = self._cut(frame)
            if self.rule.fps is not None and self._last is not None:
                self._gap = frame.time - self._last[0]
                yield from self._settle((self._last[0] + frame.time) / 2)
            self._last = (frame.time, crop)
            if self.rule.fps is None:
                own = self.steps[self.cut % len(self.steps)]
                self._places[frame.number] = (self.cut % len(self.steps), float(own.count))
                for window in own.add(crop):
                    yield own, *window
            else:
                self._places[frame.number] = (0, (frame.time - self.begin) * self.rule.fps)
                if self.live:
                    yield from self._settle(frame.time + min(self._gap, self._usual_gap) / 2)
            self.cut += 1
            if self.cut > self.reach:
                self._boxes.popleft()

    def _cut(self, frame: Frame) -> Clip:
        first = max(0, self.cut - self.reach)  # of the boxes that are held
        here = self.cut - first
        if self._boxes[here] is None:
            square = whole_square(frame.picture, self.aspect)
            crop = crop_frame(frame.picture, None, 0, self.aspect, self.rule.size)
        else:
            # Shortened evenly at both ends, as `smooth_boxes` does it.
            reach = min(self.reach, self.cut, self.count - 1 - self.cut)
            span = range(here + 1) if self.live else range(here - reach, here + reach + 1)
            boxes = np.array([self._boxes[place] for place in span])
            check_face(frame.picture, boxes, here - span[0], f"{self.where}: frame {frame.number}")
            mean = (boxes * (2 * square_scale(self.aspect))).mean(axis=0, dtype=np.float64, keepdims=True)
            square = square_boxes(mean.astype(np.float32), self.rule.margin)
            crop = crop_frame(frame.picture, square, 0, self.aspect, self.rule.size)
        self.squares[frame.number] = (square[0] / (2 * square_scale(self.aspect))).astype(np.float32)
        clip = {"imgs": crop[None]}
        for transform in self.rule.after:
            clip = transform(clip)
        return clip["imgs"][0]

    def _settle(self, until: float) -> Iterator[Window]:
        """Give the last crop to the moments to which no frame is nearer."""
        assert self._last is not None
        assert self.rule.fps is not None
        own = self.steps[0]
        while self.begin + own.count / self.rule.fps < until - 1e-9:
            for window in own.add(self._last[1]):
                yield own, *window

    def value(self, number: int) -> NDArray[np.float64] | None:
        """Return what the network says of a frame, and forget it; None if it is not final."""
        if number not in self._places:
            return None
        sequence, place = self._places[number]
        own = self.steps[sequence]
        if own.closed:
            place = min(place, own.count - 1)
        low = math.floor(place + 1e-6)
        share = max(0.0, place - low)
        if self.live and low + 1 >= own.known:
            share = 0.0  # the value of the last moment holds
        if (low if share < 1e-6 else low + 1) >= own.known:
            if not (own.closed and own.known == own.count):
                return None
            share = 0.0 if low + 1 >= own.count else share
        value = own.value(low) if share < 1e-6 else (1 - share) * own.value(low) + share * own.value(low + 1)
        del self._places[number]
        own.forget(low)
        return value

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept, as numbers, arrays, lists and dicts; frames by their numbers."""
        steps: Sequence[Any] = self.steps  # those of a stream
        return {
            "steps": [own.state_dict() for own in steps],
            "frames": [frame.number for frame in self._frames],
            **{name: _plain(getattr(self, name)) for name in _OF_A_SCENE},
        }

    def load_state_dict(self, state: Mapping[str, Any], frames: Mapping[int, Frame]) -> None:
        """Go on where a `state_dict` was taken.

        Args:
            state: Of a scene with as many steps.
            frames: By their numbers.
        """
        steps: Sequence[Any] = self.steps
        for own, kept in zip(steps, state["steps"], strict=True):
            own.load_state_dict(kept)
        self._frames = deque(frames[number] for number in state["frames"])
        for name in _OF_A_SCENE:
            kept = state[name]
            setattr(self, name, deque(kept) if name == "_boxes" else _tuples(kept))


_OF_A_SCENE = ("reach", "begin", "count", "cut", "_boxes", "_last", "_usual_gap", "_gap", "_places", "squares")


def _plain(value: Any) -> Any:
    """Return lists in the place of tuples and of what is no dict but a sequence."""
    if isinstance(value, dict):
        return {key: _plain(kept) for key, kept in value.items()}
    return [_plain(kept) for kept in value] if isinstance(value, (tuple, list, deque)) else value


def _tuples(value: Any) -> Any:
    """Undo `_plain` for what is no list."""
    if isinstance(value, dict):
        return {key: _tuples(kept) for key, kept in value.items()}
    return tuple(value) if isinstance(value, list) else value


def longest_still(rule: ClipRule, fps: float) -> float:
    """Return for how many seconds a picture may stand within a scene; ever where windows count frames, not seconds."""
    return math.inf if rule.fps is None else 1.001 * max(_STILL_SECONDS, rule.seconds(fps))


class Batches:
    """Windows of whatever person and video that wait until so many are there as go through the network together.

    Args:
        predict: The network.
        size: How many; fewer where large pictures would wait for them.
        who: The network, for messages.
    """

    def __init__(self, predict: Predict, size: int, who: str = "the network") -> None:
        self._predict, self._size, self.who = predict, size, who
        self._windows: list[Window] = []

    def ask(self, complete: Iterable[Window]) -> None:
        """Take in windows, one after the other."""
        for window in complete:
            self._windows.append(window)
            if len(self._windows) == self._size:
                self.answer()

    def answer(self) -> None:
        """Show all that wait to the network."""
        if self._windows:
            values = self._predict([clip for *_, clip in self._windows])
            for (steps, start, _), own in zip(self._windows, values, strict=True):
                steps.take(start, own)
            self._windows.clear()


class Watching:
    """One video, while its frames go by.

    Args:
        choose: Says whom to watch.
        begin: Makes the scene of somebody who comes.
        ask: Leads to the network.
        longest: For how many seconds one picture may stand within a scene (see `longest_still`).
        who: The network, for messages.
        views: Views of which the network tells valence and arousal.

    Attributes:
        ended: Whether no frame will come any more.
        error: What ended it before its end.
    """

    def __init__(
        self,
        choose: Choose,
        begin: Callable[[], Scene],
        ask: Callable[[Iterable[Window]], None],
        longest: Callable[[], float],
        who: str,
        views: int = 1,
    ) -> None:
        self._choose, self._begin, self._ask, self._longest = choose, begin, ask, longest
        self._who, self._columns = who, 2 * views
        self._time = 0.0
        self._held: deque[tuple[Watched, dict[int, Scene]]] = deque()
        self._scenes: dict[int, Scene] = {}
        self.ended = False
        self.error: HOCPError | None = None

    def add(self, followed: Followed) -> None:
        """Take in the next frame."""
        frame, faces, cut = followed
        # A picture that stands still says no more of a face than one frame does, however long it stands.
        stood, self._time = frame.time - self._time > self._longest(), frame.time
        if cut or stood:
            self._close(*self._scenes)
        there = {face.person: face for face in faces}
        chosen = [person for person in self._choose(followed) if person in there]
        self._close(*(person for person in self._scenes if person not in chosen))
        for person in chosen:
            if person not in self._scenes:
                self._scenes[person] = self._begin()
            self._ask(self._scenes[person].add(frame, there[person].box))
        self._held.append((Watched(frame, faces, cut), {person: self._scenes[person] for person in chosen}))

    def end(self) -> None:
        """Complete what is left when the last frame is in."""
        self._close(*self._scenes)
        self.ended = True

    def fail(self, error: HOCPError | None) -> None:
        """Drop what is left."""
        self._held.clear()
        self._scenes.clear()
        self.ended, self.error = True, error

    def _close(self, *people: int) -> None:
        self._ask(window for person in people for window in self._scenes[person].close())
        for person in people:
            del self._scenes[person]

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept between two frames, as numbers, arrays, lists and dicts."""
        scenes = list({id(scene): scene for _, own in self._held for scene in own.values()}.values())
        scenes += [scene for scene in self._scenes.values() if all(scene is not other for other in scenes)]
        place = {id(scene): number for number, scene in enumerate(scenes)}
        frames = [item.frame for item, _ in self._held]
        return {
            "chosen": getattr(self._choose, "current", None),
            "time": self._time,
            "frames": [[*frame] for frame in frames],
            "scenes": [scene.state_dict() for scene in scenes],
            "now": {person: place[id(scene)] for person, scene in self._scenes.items()},
            "held": [
                {
                    "faces": [[*face] for face in item.faces],
                    "cut": item.cut,
                    "affect": item.affect,
                    "scores": item.scores,
                    "squares": item.squares,
                    "scenes": {person: place[id(scene)] for person, scene in own.items()},
                }
                for item, own in self._held
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken."""
        frames = [Frame(*frame) for frame in state["frames"]]
        by_number = {frame.number: frame for frame in frames}
        scenes = [self._begin() for _ in state["scenes"]]
        for scene, kept in zip(scenes, state["scenes"], strict=True):
            scene.load_state_dict(kept, by_number)
        choose: Any = self._choose
        if hasattr(choose, "current"):
            choose.current = state["chosen"]
        self._time = state["time"]
        self._scenes = {person: scenes[place] for person, place in state["now"].items()}
        self._held = deque()
        for frame, kept in zip(frames, state["held"], strict=True):
            faces = tuple(Face(*face) for face in kept["faces"])
            said = {name: dict(kept[name]) for name in ("affect", "scores", "squares")}
            own = {person: scenes[place] for person, place in kept["scenes"].items()}
            self._held.append((Watched(frame, faces, kept["cut"], **said), own))

    @property
    def waiting(self) -> int:
        """Bytes of the frames that are not final."""
        return len(self._held) * (self._held[0][0].frame.picture.nbytes + _FRAME_BYTES) if self._held else 0

    def settled(self) -> Iterator[Watched]:
        """Yield the frames that are final, in order.

        Raises:
            CheckpointError: If the network says of one what is no number.
        """
        while self._held:
            item, own = self._held[0]
            for person in list(own):
                if (value := own[person].value(item.frame.number)) is None:
                    return
                if not np.isfinite(value).all():
                    raise CheckpointError(f"{self._who}: the network predicts NaN or infinity; its training diverged.")
                affect, scores = value[: self._columns], value[self._columns :]
                item.affect[person] = np.clip(affect, -1, 1).astype(np.float32)
                if len(scores):
                    item.scores[person] = scores.astype(np.float32)
                item.squares[person] = own[person].squares.pop(item.frame.number)
                del own[person]
            self._held.popleft()
            yield item


def watching_windows(
    choose: Choose,
    batches: Batches,
    rule: ClipRule,
    stride: int,
    fps: float,
    pixel_aspect: float = 1.0,
    where: str = "the video",
    views: int = 1,
) -> Watching:
    """Return what watches a video by windows.

    Args:
        choose: Says whom to watch.
        batches: Leads to the network.
        rule: Crop and windows.
        stride: Moments from one window to the next.
        fps: Frames per second of the video, usually where they do not come evenly.
        pixel_aspect: Width of a pixel over its height.
        where: The video, for messages.
        views: Views of which the network tells valence and arousal.
    """

    def begin() -> Scene:
        steps = [_Windows(rule.clip_len, stride) for _ in range(rule.frame_interval)]
        return Scene(rule, steps, fps, pixel_aspect, where)

    return Watching(choose, begin, batches.ask, lambda: longest_still(rule, fps), batches.who, views)


def watch_all(
    videos: Iterable[tuple[Iterable[Followed], Watching]], batches: Batches, left: set[int]
) -> Generator[tuple[int, Watched | HOCPError | None], None, None]:
    """Yield the frames of one video after the other, each with valence and arousal of those who are watched.

    A video ends with windows too few for a batch; they go with those of the next. A frame comes out as soon as it is
    final, and what waits is bounded, however many videos there are and however long they are.

    Args:
        videos: Frames with faces (see `follow_faces`), and what watches them; each is taken when its turn comes.
        batches: That of all videos.
        left: Numbers of videos of which no more is wanted, looked at after every frame.

    Yields:
        The number of a video and a frame of it; at its end None, or the error that ended it, which costs no other.
    """
    running: deque[tuple[int, Watching]] = deque()

    def ready() -> Iterator[tuple[int, Watched | HOCPError | None]]:
        while running:
            number, watching = running[0]
            items = watching.settled()
            while (item := _next(items, watching)) is not None and number not in left:
                yield number, item
            if number in left:
                watching.fail(None)
            if not watching.ended or watching.waiting:
                return
            running.popleft()
            yield number, watching.error

    for number, (followed, watching) in enumerate(videos):
        running.append((number, watching))
        try:
            for item in followed:
                watching.add(item)
                # Whoever left may leave too few windows for a batch, for as long as nobody comes.
                if sum(other.waiting for _, other in running) > _MOST_WAITING:
                    batches.answer()
                yield from ready()
                if watching.ended:
                    break
            else:
                watching.end()
        except HOCPError as error:
            watching.fail(error)
        yield from ready()
    batches.answer()
    yield from ready()


def _next(items: Iterator[Watched], watching: Watching) -> Watched | None:
    """Return the next frame; an error ends its video."""
    try:
        return next(items, None)
    except HOCPError as error:
        watching.fail(error)
        return None


def watch(
    followed: Iterable[Followed],
    choose: Choose,
    predict: Predict,
    rule: ClipRule,
    stride: int,
    fps: float,
    pixel_aspect: float = 1.0,
    batch_size: int = 8,
    where: str = "the video",
) -> Generator[Watched, None, None]:
    """Yield every frame of one video with valence and arousal of those who are watched, as soon as they are final.

    Args:
        followed: Frames with faces, in order (see `follow_faces`).
        choose: See `watching_windows`.
        predict: See `Batches`.
        rule: See `watching_windows`.
        stride: See `watching_windows`.
        fps: See `watching_windows`.
        pixel_aspect: See `watching_windows`.
        batch_size: See `Batches`.
        where: See `watching_windows`.

    Yields:
        Frames in order.

    Raises:
        HOCPError: If reading or predicting ends in one.
    """
    batches = Batches(predict, batch_size)
    watching = watching_windows(choose, batches, rule, stride, fps, pixel_aspect, where)
    for _, item in watch_all([(followed, watching)], batches, set()):
        if isinstance(item, HOCPError):
            raise item
        if item is not None:
            yield item
