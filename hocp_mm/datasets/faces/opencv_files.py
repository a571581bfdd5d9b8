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

POINTS, SCORE = slice(4, 14), 14
"""Columns of the rows of networks: x, y, width, height, five points (x, y), score."""
YUNET_LEAST = 0.6
"""Score of a face of YuNet."""
HAAR_LEAST = 3
"""Windows of a face of a Haar cascade, before a detector chooses."""
_OVERLAP = 0.3  # of the union: boxes that share more are one face
CENTERFACE_OUTPUTS = ("537", "538", "539", "540")  # trust, sides, offsets, points
_CELL, _CELLS = 4, 32  # pixels of a cell of CenterFace's answer; what the sides of its pictures must be multiples of
_FAINTEST = 0.1  # trust of a face of CenterFace, before a detector chooses
_LIMIT_BYTES = 64 * 2**20  # of a file; the largest that OpenCV ever brought has 6 MB
_SECONDS = 60.0  # for one picture
_MEMORY_BYTES = 4 * 2**30
_MOST_THREADS = 8  # each reserves some of that memory, and networks this small do not get faster by more
_lock = threading.Lock()


class DetectorFile:
    """A file of a detector, run in the process for them, of which there is one.

    Args:
        read: `read_yunet`, `read_centerface` or `read_haar`.
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
    network = cv2.FaceDetectorYN.create(model, "", (64, 64), YUNET_LEAST, _OVERLAP)

    def find(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        network.setInputSize((picture.shape[1], picture.shape[0]))
        _, found = network.detect(picture)
        return np.zeros((0, 15)) if found is None else np.asarray(found, dtype=np.float64)

    return find


def read_centerface(model: str) -> Find:
    """Read the onnx file of CenterFace; rows are those of `read_yunet`, and pictures red, green and blue.

    Args:
        model: The file.

    Returns:
        The detector, for faces that score 0.1 or more; raises what OpenCV raises.
    """
    network, known = cv2.dnn.readNetFromONNX(model), (0, 0)

    def find(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        nonlocal network, known
        height, width = picture.shape[:2]
        size = -(-width // _CELLS) * _CELLS, -(-height // _CELLS) * _CELLS
        if known not in ((0, 0), size):
            # OpenCV 4 merges layers once more for every new size, into weights that it has merged before.
            network = cv2.dnn.readNetFromONNX(model)
        known = size
        canvas = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        canvas[:height, :width] = picture
        network.setInput(cv2.dnn.blobFromImage(canvas))
        maps: Any = network.forward(CENTERFACE_OUTPUTS)
        return centerface_rows(*maps)

    return find


def centerface_rows(
    heat: NDArray[np.float32], sides: NDArray[np.float32], offsets: NDArray[np.float32], points: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Read the faces from what CenterFace says of every cell of 4 x 4 pixels.

    Args:
        heat: Trust in a face whose middle lies in the cell, in [0, 1], ``[1, 1, h, w]``.
        sides: Logarithms of the face's height and width in cells, ``[1, 2, h, w]``.
        offsets: From the middle of the cell to that of the face, down and right, in cells, ``[1, 2, h, w]``.
        points: Five points, down and right, in heights and widths from the corner of the face, ``[1, 10, h, w]``.

    Returns:
        Rows of `read_yunet`, the surest first; of those that share more than 0.3 of their union, the surest alone.
    """
    row, column = np.nonzero(heat[0, 0] >= _FAINTEST)
    trust, side, offset, point = (map_[0][:, row, column].astype(np.float64) for map_ in (heat, sides, offsets, points))
    with np.errstate(over="ignore", invalid="ignore"):  # a strange network's; such rows are left out
        high, wide = _CELL * np.exp(side)
        y, x = _CELL * (np.stack([row, column]) + 0.5 + offset) - np.stack([high, wide]) / 2
        down, right = point.reshape(5, 2, -1).transpose(1, 0, 2)
        spots = np.stack([x + right * wide, y + down * high], axis=1).reshape(10, -1)
    rows = np.concatenate([np.stack([x, y, wide, high]), spots, trust]).T
    rows = rows[np.isfinite(rows).all(axis=1)]
    kept = cv2.dnn.NMSBoxes(rows[:, :4].tolist(), rows[:, SCORE].tolist(), 0.0, _OVERLAP) if len(rows) else []
    return rows[np.asarray(kept, dtype=np.int64)]


def read_haar(model: str) -> Find:
    """Read an XML cascade; rows are x, y, width, height, and how many windows agree on the face.

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
        squares, windows = classifier.detectMultiScale2(
            grey, scaleFactor=1.1, minNeighbors=HAAR_LEAST, minSize=(smallest, smallest)
        )
        faces: Any = np.array(squares, dtype=np.float64).reshape(-1, 4)
        return np.column_stack([faces, np.array(windows, dtype=np.float64).reshape(-1)])

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
