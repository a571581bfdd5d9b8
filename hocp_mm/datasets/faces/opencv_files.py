"""OpenCV's face detectors, with files of strangers run in a process that can be lost.

OpenCV trusts the files of its detectors: an index in a cascade that points outside ends the process, numbers that are
too large keep it busy for ever, and neither shows before a picture is looked at. So the file that a user names is read,
and every picture looked at, in another process with limits of time and memory; what becomes of it is one error that
names the file. This guards against crashes: a file made to run code would run it, with the rights of the user.

The pictures are as small as the detectors want them, and travel through a pipe: 0.4 ms for 640 x 480, where a network
of YuNet's layers takes 19 ms (one core), and 0.13 ms for the 427 x 240 grey pixels of a cascade, of which a single
stage takes 1.6 ms. The process takes 0.3 s to start, once.

This file imports OpenCV alone, since a process that looks at pictures needs nothing else.
"""

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.system.isolation import IsolatedPool

Find = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""Looks at a picture, and returns a row of numbers for each face."""

_SCORE, _OVERLAP = 0.6, 0.3  # a face of YuNet scores at least; boxes that share more are one face
_LIMIT_BYTES = 64 * 2**20  # of a file; the largest that OpenCV ever brought has 6 MB
_SECONDS = 60.0  # for one picture
_MEMORY_BYTES = 4 * 2**30
_MOST_THREADS = 8  # each reserves some of that memory, and networks this small do not get faster by more
_lock = threading.Lock()


class DetectorFile:
    """A file of a detector, run in the process for them, of which there is one.

    Args:
        read: `read_yunet` or `read_haar`.
        model: The file.
        rule: What it must be, for error texts: ``"yunet: {model} must be a YuNet onnx file"``.

    Raises:
        DataError: If it is too large, or the detector does not survive a picture of noise.
    """

    def __init__(self, read: Callable[[str], Find], model: str, rule: str) -> None:
        self._read, self._model, self._rule = read, str(Path(model).absolute()), rule
        if (size := Path(model).stat().st_size) > _LIMIT_BYTES:
            raise DataError(f"{rule} of {_LIMIT_BYTES} bytes at most, got {size}.")
        # Of noise: in a black picture a cascade looks at nothing.
        self(np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8))

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Find the faces of one picture.

        Args:
            picture: Blue, green and red ``[H, W, 3]``, or grey ``[H, W]`` for cascades.

        Returns:
            What the detector returns.

        Raises:
            DataError: If the detector crashes, takes too long or refuses.
        """
        arguments = (self._read, self._model, min(cv2.getNumThreads(), _MOST_THREADS), picture)
        with _lock:
            ((_, outcome),) = _pool(os.getpid()).run([(_find, arguments, _SECONDS)])
        reason = outcome.failure or outcome.value
        if isinstance(reason, str):
            raise DataError(f"{self._rule} that OpenCV {cv2.__version__} can run, but it is not ({reason}).")
        return outcome.value


def read_yunet(model: str) -> Find:
    """Read the onnx file of YuNet; rows are x, y, width, height, five points (x, y), score.

    Args:
        model: The file.

    Returns:
        The detector; raises what OpenCV raises.
    """
    network = cv2.FaceDetectorYN.create(model, "", (64, 64), _SCORE, _OVERLAP)

    def find(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        network.setInputSize((picture.shape[1], picture.shape[0]))
        _, found = network.detect(picture)
        return np.zeros((0, 15)) if found is None else np.asarray(found, dtype=np.float64)

    return find


def read_haar(model: str) -> Find:
    """Read an XML cascade; rows are x, y, width, height.

    Args:
        model: The file.

    Returns:
        The detector, which finds faces of a sixth of the shorter side or more; raises what OpenCV raises.

    Raises:
        ValueError: If OpenCV reads no cascade from the file.
    """
    classifier = cv2.CascadeClassifier()
    if not classifier.load(model):
        raise ValueError("no cascade in it")

    def find(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        grey = picture if picture.ndim == 2 else picture[..., 0]
        smallest = smallest_face(grey)
        found: Any = classifier.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest))
        return np.array(found, dtype=np.float64).reshape(-1, 4)

    return find


def smallest_face(grey: NDArray[np.uint8]) -> int:
    """Return the side of the smallest face that a cascade looks for, in pixels."""
    return max(24, round(min(grey.shape[:2]) / 6))


def _find(
    read: Callable[[str], Find], model: str, threads: int, picture: NDArray[np.uint8]
) -> NDArray[np.float64] | str:
    """Return the faces, or what OpenCV says against the file."""
    cv2.setNumThreads(threads)
    try:
        return _loaded(read, model, _state(model))(picture)
    except Exception as error:  # cv2.error, and whatever else a strange file makes of this
        reason = " ".join(str(error).rpartition("error: ")[2].split()) or type(error).__name__
        return reason[:200]


@functools.lru_cache(maxsize=4)
def _loaded(read: Callable[[str], Find], model: str, state: tuple[int, ...]) -> Find:
    return read(model)


def _state(model: str) -> tuple[int, ...]:
    """Tell one content of a file from another."""
    status = Path(model).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@functools.cache
def _pool(process: int) -> IsolatedPool:
    """Return the pool of this process; one that was copied by a fork would share a pipe with the original's."""
    return IsolatedPool(1, memory_bytes=_MEMORY_BYTES, imports_main=False)
