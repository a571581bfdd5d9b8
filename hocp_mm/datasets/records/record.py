"""What is known about one clip: where its frames lie, how they are cut, and what its labels are."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.datasets.media.frames import Frames, frames_of
from hocp_mm.datasets.media.pack import PackTable
from hocp_mm.datasets.media.video import Decoder


@dataclass(frozen=True, eq=False)
class Record:
    """One clip of F frames: a video, a row of images, a single image, or pictures in a store.

    In a pipeline it is a dict of the same names (`results`, `from_results`), but for ``key``, which is ``video`` there.

    Attributes:
        key: Name, unique in the data set.
        filename: Video, folder of images, image, or pack of a store.
        num_frames: F, 1 or more.
        fps: Frames per second, 0 for an image.
        subject: Whom splits keep together, empty if that is not known.
        affect: (valence, arousal) in [-1, 1], float32 ``[F, 2]``.
        valid: Frames whose labels count, bool ``[F]``.
        boxes: Tight face boxes (x1, y1, x2, y2) in pixels of the files, float32 ``[F, 4]``, NaN rows without a face;
            None for whole frames.
        face_found: Frames in which a face is known, bool ``[F]``.
        frame_files: Image of each frame, empty where there is none (that frame is not valid); None for a video.
        pixel_aspect: Width of a pixel over its height.
        expression: Class of the whole record, -1 for none; None where the set has no expressions.
        pack: Where the pictures lie in the pack of a store, F rows; None for the files themselves.
        crop: How those pictures were cut.
    """

    key: str
    filename: str
    num_frames: int
    fps: float
    subject: str
    affect: NDArray[np.float32]
    valid: NDArray[np.bool_]
    boxes: NDArray[np.float32] | None
    face_found: NDArray[np.bool_]
    frame_files: tuple[str, ...] | None = None
    pixel_aspect: float = 1.0
    expression: int | None = None
    pack: PackTable | None = None
    crop: CropSettings | None = None

    def frames(self, decoder: Decoder = "auto") -> Frames:
        """Return the frames, read by ``decoder`` where they are those of a video (see `read_frames`)."""
        side = None if self.crop is None else self.crop.size
        return frames_of(self.filename, self.num_frames, self.frame_files, self.pack, side, decoder)

    def results(self) -> dict[str, Any]:
        """Return what enters a pipeline; what the record has not (None, or square pixels) is no key of it."""
        found: dict[str, Any] = {"video": self.key} | {name: getattr(self, name) for name in _NAMES[1:]}
        if self.frame_files is not None:
            found["frame_files"] = list(self.frame_files)
        if self.pixel_aspect == 1:
            del found["pixel_aspect"]
        return {name: value for name, value in found.items() if value is not None or name == "boxes"}

    @classmethod
    def from_results(cls, results: Mapping[str, Any]) -> "Record":
        """Return the record that is in a pipeline's dict."""
        found = {name: results[name] for name in _NAMES[1:] if name in results}
        if found.get("frame_files") is not None:
            found["frame_files"] = tuple(found["frame_files"])
        return cls(results["video"], **found)


_NAMES = tuple(field.name for field in fields(Record))
