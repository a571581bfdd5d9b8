"""Where the face is in every frame of a video: a detector, a given box, landmarks, or the frame.

All sources end in one kind of rectangle, the box tight around the 49 inner landmarks (brows, eyes, nose, mouth) that
training crops from; detection and everything after it are the functions of `hocp_mm.datasets`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets import (
    FaceTrack,
    VideoInfo,
    fill_boxes,
    iter_frames,
    landmark_boxes,
    make_detector,
    probe_video,
    read_landmarks_zip,
    track_detections,
)
from hocp_mm.datasets.faces.detection import DETECTORS, Progress
from hocp_mm.datasets.faces.given_boxes import check_boxes_inside
from hocp_mm.errors import DataError, HOCPError, NoFaceError

Faces = str | Path | Sequence[float]


def track_faces(
    video: str | Path,
    faces: Faces = "auto",
    every: int = 5,
    progress: Progress | None = None,
    model: str | Path | None = None,
) -> FaceTrack:
    """Return the box of the main face in every frame of a video.

    A detector looks at every few frames, and its detections are linked (see `track_detections`).

    Args:
        video: Video file.
        faces: A detector of `make_detector`; ``"frame"`` where the video is cropped to the face already; a fixed box
            (x, y, width, height) in pixels, tight around brows, eyes and mouth; or a landmark zip as in SEWA.
        every: A detector looks at every ``every``-th frame.
        progress: Called as ``progress("looking for faces", done, total)`` in frames.
        model: File of the detector, where it needs one.

    Returns:
        One box and one flag per frame.

    Raises:
        HOCPError: If the installed OpenCV lacks the detector, or ``model`` is given without one that takes it.
        MissingDataError: If there is no such video, landmark file or detector file.
        NoFaceError: If a detector finds no face; a `DataError`.
        DataError: If the video cannot be read, or a given box lies outside the picture.
        ValueError: If ``faces`` or ``every`` is none of the above.
    """
    if every < 1:
        raise ValueError(f"track_faces: every must be at least 1, got {every}.")
    if model is not None and faces not in DETECTORS:
        raise HOCPError(f"track_faces: {model} is the file of a detector, but the face comes from {faces!s}.")
    info = probe_video(video)
    if isinstance(faces, str) and faces in DETECTORS:
        detector = make_detector(str(faces), model)
        try:
            frames, aspect = iter_frames(video), info.pixel_aspect
            return track_detections(
                frames, info.num_frames, info.fps, detector, every, progress, video, pixel_aspect=aspect
            )
        except NoFaceError as error:
            raise NoFaceError(f"{error} Give the face with --box x,y,w,h.") from None
    return find_track(video, faces, info)


def find_track(video: str | Path, faces: Faces, info: VideoInfo) -> FaceTrack:
    """Return where the face is, as far as no detector need look for it.

    Args:
        video: Video file.
        faces: As in `track_faces`, but no detector.
        info: What is known of the video.

    Returns:
        One box and one flag per frame.

    Raises:
        HOCPError: As `track_faces` does.
        ValueError: As `track_faces` does.
    """
    if not isinstance(faces, str | Path):
        box = _fixed_box(faces, info.width, info.height, video)
        return FaceTrack(np.tile(box, (info.num_frames, 1)), np.ones(info.num_frames, dtype=np.bool_))
    if faces == "frame":
        return FaceTrack(None, np.ones(info.num_frames, dtype=np.bool_))
    if Path(faces).suffix.lower() == ".zip":
        return _track_from_landmarks(video, Path(faces), info)
    raise ValueError(
        f"track_faces: faces must be one of {', '.join(DETECTORS)}, 'frame', a box or a landmark .zip, got {faces!r}."
    )


def _track_from_landmarks(video: str | Path, path: Path, info: VideoInfo) -> FaceTrack:
    boxes = landmark_boxes(read_landmarks_zip(path, info.num_frames))
    if np.isnan(boxes).any(axis=1).all():
        raise DataError(f"track_faces: {path} holds no face in any of the {info.num_frames} frames of {video}.")
    check_boxes_inside(boxes, info.width, info.height, path, str(video))  # now, not when the frame is reached
    return FaceTrack(*fill_boxes(boxes))


def _fixed_box(values: Sequence[float], width: int, height: int, video: str | Path) -> NDArray[np.float32]:
    if len(values) != 4:
        raise ValueError(f"track_faces: a box must be (x, y, width, height), got {len(values)} numbers.")
    x, y, w, h = (float(value) for value in values)
    if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
        raise DataError(
            f"track_faces: the box must have a size and lie in the picture, got x={x:g} y={y:g} w={w:g} h={h:g} "
            f"({video} is {width}x{height})."
        )
    return np.array([x, y, x + w, y + h], dtype=np.float32)
