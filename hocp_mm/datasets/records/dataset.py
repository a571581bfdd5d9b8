"""What all data sets of affect have in common: one record per video, samples that point into it.

A record is the dict that enters the pipeline:

    video: str key · filename: str · num_frames: int · fps: float · subject: str
    affect: float32 [num_frames, 2], (valence, arousal) in [-1, 1] · valid: bool [num_frames]
    boxes: float32 [num_frames, 4] tight face boxes in pixels, NaN rows without a face, or None (whole frame)
    face_found: bool [num_frames] · start: int, first frame of the window (test mode only) · sample_idx: int

Frames that are pictures come as ``frame_files``: paths, one per frame, empty where there is none (that frame is not
valid); ``filename`` then is their folder. ``pixel_aspect`` is the width of a pixel over its height where that is not 1,
``expression`` a class for the whole record, -1 for none.
"""

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.records.faults import Fault, raise_faults, skipped_text
from hocp_mm.datasets.transforms.sampling import SampleClip, window_starts
from hocp_mm.errors import DataError, HOCPError
from hocp_mm.registry import TRANSFORMS

OnFault = Literal["error", "skip"]
_HOPELESS = 100  # mmengine would try a thousand clips, then raise an error that names no file


class AffectDataset(BaseDataset):
    """Base of the data sets: a subclass finds and checks its videos in `load_videos`.

    The labels of a video are held once, however many clips or windows are taken from it.

    Args:
        data_root: Folder of the set.
        pipeline: Transforms, as configs or callables.
        label_range: Lowest and highest value of the annotation scale, mapped linearly to [-1, 1]. It is
            stated, never guessed, and a label outside of it is an error.
        clips_per_video: Training: random clips that each video gives in one epoch.
        windows: Test: ``dict(clip_len=, stride=[, frame_interval=])`` of the sliding windows, which cover every
            frame (see `window_starts`). They must agree with the ``SampleClip`` of the pipeline.
        test_mode: Give windows in order instead of random clips.
        on_fault: ``"error"`` refuses a set with faults. ``"skip"`` leaves faulty videos out, counts them by kind and
            names them in a warning; a clip that turns out to be damaged in training is replaced by another and named
            (in test mode it ends the run: no frame may be lost silently).
        **kwargs: Options of ``mmengine.dataset.BaseDataset``.

    Raises:
        ValueError: If an option is out of its range or contradicts another.

    Attributes:
        faults: What `load_videos` found wrong; not empty only with ``on_fault="skip"``.
    """

    RECORD_OPTIONS: ClassVar[tuple[str, ...]] = ("label_range",)
    """Names of the options that shape labels: a store prepared with others holds other labels."""
    METAINFO = {"dims": ("valence", "arousal")}  # noqa: RUF012 - mmengine reads a class attribute of this name

    def __init__(
        self,
        data_root: str = "",
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        *,
        label_range: Sequence[float] = (-1.0, 1.0),
        clips_per_video: int = 1,
        windows: Mapping[str, int] | None = None,
        test_mode: bool = False,
        on_fault: OnFault = "error",
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if on_fault not in ("error", "skip"):
            raise ValueError(f"{name}: on_fault must be one of error, skip, got {on_fault!r}.")
        if len(label_range) != 2 or not label_range[0] < label_range[1]:
            raise ValueError(f"{name}: label_range must be (lowest, highest), got {tuple(label_range)}.")
        if clips_per_video < 1:
            raise ValueError(f"{name}: clips_per_video must be 1 or more, got {clips_per_video}.")
        if test_mode and windows is None:
            raise ValueError(f"{name}: test_mode needs windows=dict(clip_len=…, stride=…), got None.")
        self.label_range = (float(label_range[0]), float(label_range[1]))
        self.clips_per_video = clips_per_video
        self.windows = dict(windows or {})
        steps = [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]
        self._check_sampling(steps, test_mode)
        self.on_fault: OnFault = on_fault
        self.faults: list[Fault] = []
        self._videos: list[bytes] = []
        self._told: set[str] = set()
        self._damaged_in_a_row = 0
        metainfo = {"label_range": self.label_range, **(kwargs.pop("metainfo", None) or {})}
        super().__init__(
            data_root=str(data_root), pipeline=steps, test_mode=test_mode, metainfo=metainfo, data_prefix={}, **kwargs
        )

    def load_videos(self) -> list[dict[str, Any]]:
        """Find, check and return the records of all videos; one `DataError` names all faults of the set.

        Raises:
            NotImplementedError: Always; subclasses replace it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement load_videos.")

    def record_options(self) -> dict[str, Any]:
        """Return the values of ``RECORD_OPTIONS``, of types that JSON knows."""
        values = {name: getattr(self, name) for name in self.RECORD_OPTIONS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def settle_faults(self, where: str, faults: Sequence[Fault], usable: int, left_out: Sequence[str] = ()) -> None:
        """Raise all faults together or, with ``on_fault="skip"``, name them in a warning and keep them.

        Args:
            where: Name of the set and part.
            faults: What is wrong.
            usable: Number of videos that are left to use.
            left_out: Names of the videos that are not.

        Raises:
            DataError: If there are faults and ``on_fault`` is ``"error"``, or nothing is left.
        """
        if self.on_fault == "error":
            raise_faults(where, faults)
        self.faults = list(faults)  # before the next error, too: whoever catches it has them one by one
        if usable == 0:
            raise_faults(where, [*faults, f"{self.data_root}: no video can be used"])
        if faults:
            print_log(skipped_text(where, faults, left_out), logger="current", level=logging.WARNING)

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one sample.

        Args:
            idx: Number of the sample.

        Returns:
            What the pipeline returns, or None for a damaged training clip with ``on_fault="skip"``: mmengine then
            takes another one.

        Raises:
            HOCPError: If the clip is damaged; with ``on_fault="skip"`` only in test mode, or if so many clips are
                damaged in a row that hardly any can be left.
        """
        try:
            packed = super().prepare_data(idx)
            self._damaged_in_a_row = 0
            return packed
        except HOCPError as error:
            self._damaged_in_a_row += 1
            if self.on_fault == "error" or self.test_mode or self._damaged_in_a_row >= _HOPELESS:
                raise
            if str(error) not in self._told:  # once per data loader worker
                self._told.add(str(error))
                text = f"{type(self).__name__}: clip {len(self._told)} replaced by another: {error}"
                print_log(text, logger="current", level=logging.WARNING)
            return None

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one small item per clip or window; the records themselves are kept aside, once."""
        videos = self.load_videos()
        # Pickled as mmengine does with its list: data loader workers share the pages as long as nobody writes.
        self._videos = [pickle.dumps(video, protocol=5) for video in videos]
        items: list[dict[str, Any]] = []
        for index, video in enumerate(videos):
            if self.test_mode:
                starts = window_starts(video["num_frames"], **self.windows)
                items += [{"video_index": index, "start": start} for start in starts]
            else:
                items += [{"video_index": index} for _ in range(self.clips_per_video)]
        return items

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a fresh copy of the record that sample ``idx`` is taken from."""
        item = super().get_data_info(idx)
        return {**pickle.loads(self._videos[item.pop("video_index")]), **item}

    def _check_sampling(self, steps: Sequence[Any], test_mode: bool) -> None:
        """Refuse a pipeline whose clips would not be the windows that cover every frame."""
        name = type(self).__name__
        if unknown := set(self.windows) - {"clip_len", "stride", "frame_interval"}:
            raise ValueError(f"{name}: windows takes clip_len, stride and frame_interval, got {sorted(unknown)}.")
        if self.windows:
            window_starts(1, **self.windows)  # complains about its numbers
        wanted = (self.windows.get("clip_len"), self.windows.get("frame_interval", 1))
        for step in steps:
            if not isinstance(step, SampleClip):
                continue
            if test_mode != (step.mode == "window"):
                raise ValueError(f"{name}: test_mode={test_mode} contradicts {step!r}.")
            if test_mode and (step.clip_len, step.frame_interval) != wanted:
                raise ValueError(f"{name}: windows={self.windows} must agree with {step!r}.")


def scale_labels(
    values: NDArray[np.floating], label_range: tuple[float, float], path: Any, first_line: int = 1
) -> NDArray[np.float32]:
    """Map labels linearly from ``label_range`` to [-1, 1].

    Args:
        values: Labels of one dimension in annotation units, ``[F]``.
        label_range: Lowest and highest value of the scale.
        path: File that they come from, for the message.
        first_line: Line of the first value in it.

    Returns:
        Labels, float32 ``[F]``; the very same numbers for the range (-1, 1).

    Raises:
        DataError: If a value lies outside the range.
    """
    low, high = label_range
    outside = (values < low) | (values > high)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{path}: labels must lie in label_range ({low:g}, {high:g}), but line {first_line + row} has "
            f"{values[row]:g}; the file spans {values.min():g} to {values.max():g}."
        )
    if (low, high) == (-1.0, 1.0):
        return values.astype(np.float32)
    return (2 * (values - low) / (high - low) - 1).astype(np.float32)
