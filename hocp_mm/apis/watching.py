"""From frames with faces to affect, while the frames go by.

    followed frames -> whom to watch -> smooth boxes, crops -> windows of moments -> network -> values of each frame

A `Scene` is one person from her appearance to a cut, a gap or the end. Boxes are smoothed, and windows laid, within it
and never across; what the network says of a moment is the mean of all windows that hold it, and a frame between two
moments has the value between theirs. All of it is done as in training and in test (`LoadFaceClip`, `window_starts`,
`WindowAverager`), only that no more is held than what is still to come may need.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import smoothing_window, square_boxes
from hocp_mm.datasets.faces.crops import check_face, crop_frame, square_scale
from hocp_mm.datasets.faces.following import Face, Followed, Frame
from hocp_mm.launch import ClipRule

Clip = NDArray[np.uint8]
"""Crops of a window, RGB ``[T, S, S, 3]``."""
Predict = Callable[[Sequence[Clip]], NDArray[np.float32]]
"""Returns valence and arousal of each frame of each window, ``[B, T, 2]``, or of two views of it, ``[B, T, 4]``."""
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
    """

    frame: Frame
    faces: tuple[Face, ...]
    cut: bool
    affect: dict[int, NDArray[np.float32]] = field(default_factory=dict)


class _Steps:
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
        """Take in what the network says of a window, ``[T, 2]``."""
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
        """Return the mean over all windows that hold a moment, ``[2]``."""
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

    def value(self, number: int) -> NDArray[np.float32] | None:
        """Return valence and arousal of a frame, and forget it; None if they are not final."""
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
        return np.clip(value, -1, 1).astype(np.float32)


def longest_still(rule: ClipRule, fps: float) -> float:
    """Return for how many seconds a picture may stand within a scene; ever where windows count frames, not seconds."""
    return math.inf if rule.fps is None else 1.001 * max(_STILL_SECONDS, rule.seconds(fps))


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
    """Yield every frame with valence and arousal of those who are watched, as soon as they are final.

    Args:
        followed: Frames with faces, in order (see `follow_faces`).
        choose: Says whom to watch.
        predict: The network.
        rule: Crop and windows.
        stride: Moments from one window to the next.
        fps: Frames per second of the video, usually where they do not come evenly.
        pixel_aspect: Width of a pixel over its height.
        batch_size: Windows that go through the network together; fewer where large pictures would wait for them.
        where: The video, for messages.

    Yields:
        Frames in order.
    """
    held: deque[tuple[Watched, dict[int, Scene]]] = deque()
    scenes: dict[int, Scene] = {}
    windows: list[Window] = []

    def answer() -> None:
        if windows:
            for (steps, start, _), values in zip(windows, predict([clip for *_, clip in windows]), strict=True):
                steps.take(start, values)
            windows.clear()

    def ask(complete: Iterable[Window]) -> None:
        for window in complete:
            windows.append(window)
            if len(windows) == batch_size:
                answer()

    def settled() -> Iterator[Watched]:
        while held:
            item, own = held[0]
            for person in list(own):
                if (value := own[person].value(item.frame.number)) is None:
                    return
                item.affect[person] = value
                del own[person]
            held.popleft()
            yield item

    time, longest = 0.0, longest_still(rule, fps)
    for frame, faces, cut in followed:
        # A picture that stands still says no more of a face than one frame does, however long it stands.
        stood, time = frame.time - time > longest, frame.time
        if cut or stood:
            ask(window for scene in scenes.values() for window in scene.close())
            scenes.clear()
        there = {face.person: face for face in faces}
        chosen = [person for person in choose(Followed(frame, faces, cut)) if person in there]
        for person in [person for person in scenes if person not in chosen]:
            ask(scenes.pop(person).close())
        for person in chosen:
            if person not in scenes:
                steps = [_Steps(rule.clip_len, stride) for _ in range(rule.frame_interval)]
                scenes[person] = Scene(rule, steps, fps, pixel_aspect, where)
            ask(scenes[person].add(frame, there[person].box))
        held.append((Watched(frame, faces, cut), {person: scenes[person] for person in chosen}))
        # Whoever left may leave too few windows for a batch, for as long as nobody comes.
        if len(held) * (frame.picture.nbytes + _FRAME_BYTES) > _MOST_WAITING:
            answer()
        yield from settled()
    ask(window for scene in scenes.values() for window in scene.close())
    answer()
    yield from settled()
