"""From frame numbers to face crops."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import usual_rate
from hocp_mm.datasets.faces.crops import Crops
from hocp_mm.datasets.media.frames import frames_of
from hocp_mm.datasets.media.video import Decoder
from hocp_mm.registry import TRANSFORMS


class ClipCache:
    """Keep whole videos of face crops up to a number of bytes.

    The least recently used video gives way, but only to one that is asked for twice in a row (windows of one
    video in test). Any other newcomer must find free room: random clips of a set larger than the cache would
    otherwise decode a whole video for every clip and keep none long enough.

    Args:
        max_bytes: Bound on the sum of the arrays; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._videos: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._last: Hashable = None

    def get(self, key: Hashable, num_bytes: int, load: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
        """Return a video from memory, or load and keep it; None if it is not worth its place.

        Args:
            key: Identity of the video and of all that shaped its crops.
            num_bytes: Size that ``load`` would return.
            load: Makes the array.

        Returns:
            The kept array (do not write into it), or None.
        """
        again, self._last = key == self._last, key
        if key in self._videos:
            self._videos.move_to_end(key)
            return self._videos[key]
        if num_bytes > self.max_bytes or (self.num_bytes + num_bytes > self.max_bytes and not again):
            return None
        while self.num_bytes + num_bytes > self.max_bytes:
            self.num_bytes -= self._videos.popitem(last=False)[1].nbytes
        video = self._videos[key] = load()
        self.num_bytes += video.nbytes
        return video

    def __getstate__(self) -> dict[str, Any]:
        """Travel to other processes empty: pixels are cheaper decoded than pickled."""
        return {"max_bytes": self.max_bytes, "num_bytes": 0, "_videos": OrderedDict(), "_last": None}


@TRANSFORMS.register_module()
class LoadFaceClip:
    """Read the frames of a clip and crop the face: adds ``imgs``, RGB uint8 ``[T, size, size, 3]``.

    Boxes are smoothed over the whole video, so the crop of a frame is the same in every clip. Padding
    (``frame_inds`` -1) repeats the last frame. A record without boxes (``faces="frame"``) gives the whole
    frame, its shorter side extended by its edge pixels to a square.

    A record with ``frame_files`` is read from these image files (see `read_image` for grey, alpha, 16 bits,
    rotation). A frame without a file shows the last one that has one (see `held_frames`), with its crop; such frames
    are not valid, so their labels count nowhere. ``pixel_aspect`` of a record makes its pixels square before the
    crop, boxes and frames by one rule (`crop_rule`).

    A record of a store (with ``pack``, see `FaceCropDataset`) is read from its pack: the very pictures where size and
    margin are those of the store, a cut around the same centre where they are smaller. What the store does not hold is
    an error, not a blur.

    Args:
        size: Side of the crops, pixels.
        margin: Side of the square in units of the longer side of the smoothed landmark box.
        smooth: Window of the moving average of the boxes, in 25ths of a second: 25 is 1 s in every video.
        cache_mb: Megabytes (2**20 bytes) in which whole videos of crops are kept; 0 decodes every clip anew.
            The pixels are the same. Each process, and so each data loader worker, has its own cache.
        decoder: ``"auto"``, ``"pyav"``, ``"seek"`` or ``"decord"`` (see `read_frames`); a store needs none.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self, size: int, margin: float = 1.5, smooth: int = 25, cache_mb: float = 0, decoder: Decoder = "auto"
    ) -> None:
        if size < 1 or margin <= 0 or smooth < 1 or cache_mb < 0:
            raise ValueError(
                "LoadFaceClip: size and smooth must be 1 or more, margin positive, cache_mb 0 or more, "
                f"got size={size}, smooth={smooth}, margin={margin}, cache_mb={cache_mb}."
            )
        self.size = size
        self.margin = margin
        self.smooth = smooth
        self.decoder: Decoder = decoder
        self.cache = ClipCache(int(cache_mb * 2**20))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``imgs`` to a record with ``frame_inds``."""
        inds, num_frames = results["frame_inds"], results["num_frames"]
        files, pack, crop = (results.get(name) for name in ("frame_files", "pack", "crop"))
        side = None if crop is None else crop.size
        frames = frames_of(results["filename"], num_frames, files, pack, side, self.decoder)
        aspect = results.get("pixel_aspect", 1.0)
        fps = usual_rate(results.get("fps", 0.0), results.get("times"))
        crops = Crops(frames, results["boxes"], self.size, self.margin, self.smooth, fps, aspect, crop)
        inds = frames.shown()[np.where(inds < 0, num_frames - 1, inds)]
        # size, margin and smooth are fixed here.
        size_in_memory = num_frames * self.size**2 * 3
        video = self.cache.get(crops.key, size_in_memory, lambda: self._load_all(crops, num_frames))
        if video is not None:
            results["imgs"] = video[inds]
            return results
        wanted, position = np.unique(inds, return_inverse=True)
        imgs = np.empty((len(wanted), self.size, self.size, 3), dtype=np.uint8)
        for place, crop in enumerate(crops.read(wanted)):
            imgs[place] = crop
        # Most clips are in order and without repeats: nothing to copy.
        results["imgs"] = imgs if np.array_equal(wanted, inds) else imgs[position]
        return results

    def _load_all(self, crops: Crops, num_frames: int) -> NDArray[np.uint8]:
        """Crop every frame while reading, so that no full-size video is held."""
        imgs = np.zeros((num_frames, self.size, self.size, 3), dtype=np.uint8)
        for index, crop in crops.read_all():
            imgs[index] = crop
        return imgs

    def __repr__(self) -> str:
        """Show the settings."""
        return (
            f"LoadFaceClip(size={self.size}, margin={self.margin}, smooth={self.smooth}, "
            f"cache_mb={self.cache.max_bytes / 2**20:g}, decoder={self.decoder!r})"
        )
