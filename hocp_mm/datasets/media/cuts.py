"""Where a film is cut: pictures that share neither their colours nor their places with the one before.

What lies on the two sides of a cut belongs to different moments and mostly to different people, so nothing may be
tracked, averaged or shown to a network across it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 24  # of the thumbnails
_BINS = 6  # of each colour channel
# Least differences, from 0 to 1, of colours and places at a cut, and of places alone. From one frame to the next of six
# real films they are at most 0.03 and 0.02; between frames of two of them at least 0.21 and 0.16.
_COLOURS, _PLACES, _PLACES_ALONE = 0.1, 0.1, 0.2
_TIMES_USUAL = 5.0  # how far they lie above what is usual in this film: fast motion is no cut
_MEMORY = 12  # frames that say what is usual


class _Look(NamedTuple):
    """What is kept of one picture: where its colours lie, and how many there are of each."""

    places: NDArray[Any]
    colours: NDArray[Any]

    @classmethod
    def at(cls, picture: NDArray[np.uint8]) -> "_Look":
        step = max(1, min(picture.shape[:2]) // (4 * _SIDE))
        small = cv2.resize(picture[::step, ::step], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        places = cv2.GaussianBlur(small, (5, 5), 0).astype(np.float32) / 255
        # Soft borders: a shade of light moves no pixel from one bin wholly to the next.
        scaled = places.reshape(-1, 3) * (_BINS - 1)
        low = np.minimum(scaled.astype(np.int64), _BINS - 2)
        share = scaled - low
        colours = np.zeros((3, _BINS), dtype=np.float32)
        for channel in range(3):
            np.add.at(colours[channel], low[:, channel], 1 - share[:, channel])
            np.add.at(colours[channel], low[:, channel] + 1, share[:, channel])
        return cls(places, colours / len(scaled))

    def differs(self, other: "_Look") -> NDArray[np.float32]:
        """Return the differences in colours and in places, each from 0 to 1."""
        colours = np.abs(self.colours - other.colours).sum(axis=1).max() / 2
        return np.array([colours, np.abs(self.places - other.places).mean()], dtype=np.float32)


class CutFinder:
    """Tells for each picture of a film whether a cut lies before it, one picture later.

    A flash is no cut: the picture after the next one shows the old scene again.
    """

    def __init__(self) -> None:
        self._before: _Look | None = None
        self._held: _Look | None = None
        self._usual: list[NDArray[np.float32]] = []

    def push(self, picture: NDArray[np.uint8]) -> bool:
        """Take in a picture, RGB uint8 ``[H, W, 3]``; true if there is a cut before the one *before* it."""
        look = _Look.at(picture)
        cut, flash = self._decide(look)
        self._before, self._held = self._before if flash else self._held, look
        return cut

    def end(self) -> bool:
        """Return whether there is a cut before the last picture."""
        return self._decide(None)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept, as arrays and lists."""
        return {"before": self._before and [*self._before], "held": self._held and [*self._held], "usual": self._usual}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken."""
        self._before, self._held = (state[name] and _Look(*state[name]) for name in ("before", "held"))
        self._usual = list(state["usual"])

    def _decide(self, after: _Look | None) -> tuple[bool, bool]:
        """Return whether there is a cut before the held picture, and whether it is a flash alone."""
        if self._before is None or self._held is None:
            return False, False
        jump = self._held.differs(self._before)
        if not self._is_far(jump):
            self._usual = [*self._usual[1 - _MEMORY :], jump]
            return False, False
        flash = after is not None and not self._is_far(after.differs(self._before))
        return not flash, flash

    def _is_far(self, jump: NDArray[np.float32]) -> bool:
        usual = np.median(self._usual, axis=0) if self._usual else np.zeros(2, np.float32)
        far = (jump > (_COLOURS, _PLACES)) & (jump > _TIMES_USUAL * usual)
        return bool(far.all() or (far[1] and jump[1] > _PLACES_ALONE))
