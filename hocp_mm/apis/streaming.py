"""`AffectStream`: frames in as they come, of a camera or a pipe, and what is said of the people in them out.

    picture, time -> who is there -> smooth boxes, crops -> moments -> `FrameStream` -> values, while frames go by

Faces are found, followed, cropped and laid on moments by what `AffectInferencer` uses; in the place of windows, each of
which begins without a past, every person has a stream of her own that begins when she comes and ends when she goes.
"""

import time as clock
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hocp_mm.apis.face_track import Faces
from hocp_mm.apis.inferencer import AffectInferencer, tell_slow
from hocp_mm.apis.people import People, choose_people
from hocp_mm.apis.watching import Clip, Scene, Watched, Watching, Window, longest_still
from hocp_mm.datasets import make_detector
from hocp_mm.datasets.faces.detection import DETECTORS, FaceDetector
from hocp_mm.datasets.faces.following import Face, FaceFollower, Followed, Frame

_USUAL_RATE = 25.0
_MEASURED = 25  # gaps between frames that say how many come in a second, and results that say how many go out
_LEAST_MEASURED = 5


@dataclass
class StreamedFrame(Watched):
    """What is said of a frame of a stream.

    Attributes:
        latency: Seconds from when the frame came in to when this came out.
        rate: Frames per second that came out lately; NaN at first.
    """

    latency: float = 0.0
    rate: float = float("nan")


class _Moments:
    """The moments of a person, of which the network says what it says once.

    Args:
        key: Of the stream of the network.
        ending: Where it goes when there are no more.
    """

    def __init__(self, key: int, ending: "list[_Moments]") -> None:
        self.key, self._ending = key, ending
        self.count = self.known = 0
        self.closed = False
        self._values: deque[NDArray[np.float64]] = deque()
        self._forgotten = 0

    def add(self, crop: Clip) -> list[tuple[int, Clip]]:
        self.count += 1
        return [(self.count - 1, crop[None])]

    def close(self, last_crop: Clip) -> list[tuple[int, Clip]]:
        self.closed = True
        self._ending.append(self)
        return []

    def take(self, values: Any) -> None:
        """Take in what the network says of the next moments, a tensor ``[m, 2 + K]``."""
        self._values.extend(values.cpu().double().numpy())
        self.known += len(values)

    def value(self, step: int) -> NDArray[np.float64]:
        return self._values[step - self._forgotten]

    def state_dict(self) -> dict[str, Any]:
        return {"values": [*self._values], **{name: getattr(self, name) for name in _OF_MOMENTS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._values = deque(state["values"])
        for name in _OF_MOMENTS:
            setattr(self, name, state[name])

    def forget(self, before: int) -> None:
        while self._forgotten < min(before, self.known):
            self._values.popleft()
            self._forgotten += 1


_OF_MOMENTS = ("key", "count", "known", "closed", "_forgotten")
_OF_A_STREAM = ("_count", "_keys", "_first", "_time")


class AffectStream:
    """Say valence and arousal of the people in frames that come one by one, for as long as they come.

    What is held does not grow: the network keeps the components of its last frames, and a picture is let go as soon as
    its values are final. People keep their numbers; of who is gone nothing is said, and who comes back begins anew.
    Moments are laid by time at the rate of training, so frames may come at any rate, unevenly, or be left out by who is
    too slow for them.

    ``live`` answers as soon as the network can. A crop then follows its head by the looks, and the average of boxes, up
    to now, and somebody new is seen from her second look on, a fifth of a second late. ``live=False`` waits until
    nothing can change, as `AffectInferencer` does, for about a second (:attr:`delay`), and crops are those of training.
    What is said then equals `AffectInferencer.predict` where one window holds all moments of a scene, and the network
    is causal or the window full. Of a longer scene that gives the mean of windows, each of which begins without a past;
    a stream says what one window over all of the scene would.

    Args:
        network: Checkpoint, or an `AffectInferencer` that has read it.
        faces: A detector or its name (see `make_detector`); ``"frame"`` where pictures show the face alone; or a fixed
            box (x, y, width, height) in pixels, tight around brows, eyes and mouth.
        person: Whom to watch (see `choose_people`).
        live: Answer at once, not a second later.
        fps: Frames per second that will come, by which boxes are smoothed; measured if None.
        pixel_aspect: Width of a pixel over its height.
        config: As in `AffectInferencer`.
        device: As in `AffectInferencer`.

    Attributes:
        inferencer: The network with its rule of crops and moments.
        network: Its streams.

    Raises:
        NotImplementedError: If the network cannot be streamed (see `FrameStream`).
        HOCPError: If the checkpoint cannot be used, as in `AffectInferencer`.
        ValueError: If ``faces``, ``person`` or ``fps`` is none of these.
    """

    def __init__(
        self,
        network: AffectInferencer | str | Path,
        faces: Faces | FaceDetector = "auto",
        person: People = "largest",
        *,
        live: bool = True,
        fps: float | None = None,
        pixel_aspect: float = 1.0,
        config: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if fps is not None and not 0 < fps < float("inf"):
            raise ValueError(f"AffectStream: fps must be positive, got {fps}.")
        from hocp_mm.models.streaming import FrameStream  # brings timm, which a file does not need

        choose_people(person)
        self._box = _given_box(faces)
        self._detector: Any = make_detector(str(faces)) if isinstance(faces, str) and faces in DETECTORS else faces
        self.inferencer = (
            network if isinstance(network, AffectInferencer) else AffectInferencer(network, config, device)
        )
        self.rule = self.inferencer.rule
        self._person: People = person
        self._live, self._fps, self._aspect = live, fps, pixel_aspect
        self.network = FrameStream(self.inferencer.model, self.rule.seen)
        self.reset()

    @property
    def delay(self) -> float:
        """Seconds between a frame and what is said of it, apart from the time that it takes to compute."""
        rate = self._rate()
        ahead = self.network.delay * self.rule.frame_interval / (self.rule.fps or rate)
        looked = 0.0 if self._box is not None else self.rule.seconds(rate) + 1 / rate
        return ahead if self._live else ahead + looked + self.rule.smooth / (2 * _USUAL_RATE) + 1 / rate

    def reset(self) -> None:
        """Begin anew: nobody is known, nothing is held, and the next frame is the first."""
        self.network.reset()
        bridge = self.rule.seconds(self._fps or self.rule.fps or _USUAL_RATE)
        self._follower = None
        if self._box is None:
            self._follower = FaceFollower(self._detector, bridge, self._aspect, live=self._live)
        self._asked: list[Window] = []
        self._ending: list[_Moments] = []
        self._watching = Watching(
            choose_people(self._person),
            self._scene,
            self._asked.extend,
            lambda: longest_still(self.rule, self._rate()),
            str(self.inferencer.checkpoint),
        )
        self._count = self._keys = 0
        self._first = self._time = 0.0
        self._shape: tuple[int, ...] = ()
        self._gaps: deque[float] = deque(maxlen=_MEASURED)
        self._came: dict[int, float] = {}
        self._went: deque[float] = deque(maxlen=_MEASURED)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept, to go on with later or elsewhere (`load_state_dict`).

        Returns:
            Tensors, lists, dicts, numbers and strings, for ``torch.save`` and ``torch.load(weights_only=True)``. The
            pictures that wait are in it: none, or one, where the network answers at once, else a second of them.
        """
        return {
            "network": self.network.state_dict(),
            "following": None if self._follower is None else _to_tensors(self._follower.state_dict()),
            "watching": _to_tensors(self._watching.state_dict()),
            "shape": list(self._shape),
            "gaps": list(self._gaps),
            "waiting": list(self._came),
            "live": self._live,
            **{name: getattr(self, name) for name in _OF_A_STREAM},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken, as if there had been no break; what is here is forgotten.

        The next frame must be later than the last one by the clock of that one; latencies count anew.

        Args:
            state: Of a stream of the same network, with the same arguments. Nothing in it is run, but what is said
                from it is only as good as who wrote it.

        Raises:
            ValueError: If it does not fit; the stream then is as after `reset`.
        """
        self.reset()
        try:
            if state["live"] != self._live or (state["following"] is None) != (self._follower is None):
                raise ValueError("live and faces must be those of the stream that it was taken of")
            self.network.load_state_dict(state["network"])
            if self._follower is not None:
                self._follower.load_state_dict(_to_arrays(state["following"]))
            self._watching.load_state_dict(_to_arrays(state["watching"]))
            self._shape, self._gaps = tuple(state["shape"]), deque(state["gaps"], maxlen=_MEASURED)
            for name in _OF_A_STREAM:
                setattr(self, name, state[name])
            self._came = dict.fromkeys(state["waiting"], clock.perf_counter())
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            self.reset()
            raise ValueError(f"AffectStream.load_state_dict: the state is not of such a stream ({error}).") from error

    def push(self, picture: NDArray[np.uint8], time: float | None = None) -> list[StreamedFrame]:
        """Take in the next frame.

        Args:
            picture: RGB, uint8 ``[H, W, 3]``, of one size; not kept beyond the results that hold it, and not to be
                overwritten before.
            time: When it was taken, in seconds on any clock; now, by the clock of this computer, if None.

        Returns:
            The frames of which everything is known now, in order, each with valence and arousal in [-1, 1] of who is
            watched; their times count from the first frame. None, one or several.

        Raises:
            TypeError: If the picture is no array of bytes.
            ValueError: If it has another size, or the time is not later than that of the frame before.
            CheckpointError: If the network says NaN. After any error, `reset`.
        """
        came = clock.perf_counter()
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
            kind = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
            raise TypeError(f"AffectStream.push: a frame must be an array of uint8, got {kind}.")
        if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size or self._shape not in ((), picture.shape):
            wanted = list(self._shape) or "[H, W, 3]"
            raise ValueError(
                f"AffectStream.push: frames must be RGB of one size, {wanted}, got {list(picture.shape)} (frame "
                f"{self._count}; reset() begins anew)."
            )
        moment = came if time is None else float(time)
        if not np.isfinite(moment) or (self._count and not moment - self._first > self._time):
            raise ValueError(
                f"AffectStream.push: each frame must be later than the one before, got {moment:g} s after "
                f"{self._first + self._time:g} s (frame {self._count})."
            )
        if self._count == 0:
            self._first = moment
        else:
            self._gaps.append(moment - self._first - self._time)
            if self._count == _MEASURED:
                tell_slow(self.rule, self._rate(), "the stream")
        frame = Frame(self._count, moment - self._first, picture)
        self._shape, self._time = picture.shape, frame.time
        self._count += 1
        self._came[frame.number] = came
        for followed in [self._alone(frame)] if self._follower is None else self._follower.push(frame):
            self._watching.add(followed)
        return list(self._results())

    def end(self) -> list[StreamedFrame]:
        """End the stream: return what is left, and begin anew with the next frame."""
        for followed in () if self._follower is None else self._follower.end():
            self._watching.add(followed)
        self._watching.end()
        left = list(self._results())
        self.reset()
        return left

    def watch(self, frames: Iterable[tuple[float | None, NDArray[np.uint8]]]) -> Generator[StreamedFrame, None, None]:
        """Yield what is said of all frames of a source.

        Args:
            frames: Times, or None for now, and pictures, as `push` takes them: of a camera, a pipe, a file.

        Yields:
            Every frame, in order, ``delay`` seconds behind what came in, with the latency and rate of this computer.
        """
        for time, picture in frames:
            yield from self.push(picture, time)
        yield from self.end()

    def _rate(self) -> float:
        """Return how many frames come in a second."""
        if self._fps is not None:
            return self._fps
        return 1 / float(np.median(self._gaps)) if len(self._gaps) >= _LEAST_MEASURED else _USUAL_RATE

    def _alone(self, frame: Frame) -> Followed:
        box = None if self._box is None or np.isnan(self._box).any() else self._box
        return Followed(frame, (Face(1, box, True),), False)

    def _scene(self) -> Scene:
        steps = [_Moments(self._keys + place, self._ending) for place in range(self.rule.frame_interval)]
        self._keys += len(steps)
        return Scene(self.rule, steps, self._rate(), self._aspect, "the stream", self._live)

    def _answer(self) -> None:
        """Give the network the moments that are due, all people's together, and take what it says."""
        crops: dict[int, list[Clip]] = {}
        owners = {own.key: own for own, _, _ in self._asked} | {own.key: own for own in self._ending}
        for own, _, crop in self._asked:
            crops.setdefault(own.key, []).append(crop)
        self._asked.clear()
        if crops:
            clips = {key: np.concatenate(own).transpose(3, 0, 1, 2) for key, own in crops.items()}
            said = self.network.push({key: self._normalised(clip) for key, clip in clips.items()})
            for key, values in said.items():
                owners[key].take(values)
        ended = [own.key for own in self._ending if own.key in self.network.streams]
        self._ending.clear()
        if ended:
            for key, values in self.network.end(*ended).items():
                owners[key].take(values)

    def _normalised(self, clip: NDArray[np.uint8]) -> Tensor:
        inputs = torch.from_numpy(np.ascontiguousarray(clip))
        return self.inferencer.model.data_preprocessor({"inputs": [inputs]})["inputs"][0]

    def _results(self) -> Iterator[StreamedFrame]:
        self._answer()
        for item in self._watching.settled():
            now = clock.perf_counter()
            self._went.append(now)
            latency, gaps = now - self._came.pop(item.frame.number), len(self._went) - 1
            rate = gaps / max(now - self._went[0], 1e-9) if gaps else float("nan")
            yield StreamedFrame(**vars(item), latency=latency, rate=rate)


def _to_tensors(value: Any) -> Any:
    """Copy lists and dicts, with tensors in the place of arrays."""
    if isinstance(value, dict):
        return {key: _to_tensors(kept) for key, kept in value.items()}
    if isinstance(value, list):
        return [_to_tensors(kept) for kept in value]
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _to_arrays(value: Any) -> Any:
    """Undo `_to_tensors`."""
    if isinstance(value, dict):
        return {key: _to_arrays(kept) for key, kept in value.items()}
    if isinstance(value, list):
        return [_to_arrays(kept) for kept in value]
    return value.numpy().copy() if isinstance(value, Tensor) else value


def _given_box(faces: Any) -> NDArray[np.float32] | None:
    """Return the box that is given, NaN for the whole frame; None if a detector is to look."""
    if callable(faces) or (isinstance(faces, str) and faces in DETECTORS):
        return None
    if isinstance(faces, str) and faces == "frame":
        return np.full(4, np.nan, np.float32)
    if isinstance(faces, str | Path) or len(faces) != 4 or not (faces[2] > 0 and faces[3] > 0):
        raise ValueError(
            f"AffectStream: faces must be a detector, one of {', '.join(DETECTORS)}, 'frame' or a box (x, y, width, "
            f"height), got {faces!r:.100}."
        )
    x, y, width, height = (float(value) for value in faces)
    return np.array([x, y, x + width, y + height], dtype=np.float32)
