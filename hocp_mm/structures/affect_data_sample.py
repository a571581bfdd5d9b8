"""Labels and predictions of one clip: `AffectDataSample`.

MMAction2's ``ActionDataSample.set_gt_label`` casts ``[0.37, -0.82]`` to ``[0, 0]`` without a word, so
affect labels have their own container, which refuses integers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

VALENCE, AROUSAL = 0, 1
"""Index of each value in the last dimension of every affect array."""

AffectLike = Tensor | NDArray[Any] | Sequence[Sequence[float]]
MaskLike = Tensor | NDArray[Any] | Sequence[bool]

ExpressionLike = Tensor | NDArray[Any] | Sequence[int]

_AFFECT_FIELDS = ("gt_affect", "pred_affect")
_EXPRESSION_FIELDS = ("gt_expression", "pred_expression")
_MASKS = ("gt_valid", "face_found")
_CHECKED_FIELDS = (*_AFFECT_FIELDS, *_EXPRESSION_FIELDS, *_MASKS, "gt_weight", "pred_scores")


class AffectDataSample(BaseDataElement):
    """Valence and arousal of each frame of one clip; the order is always (valence, arousal).

    Every way of setting a field (assignment, constructor, ``set_data``) checks its kind and shape, so a
    label that lost its fraction cannot get in.

    Attributes:
        gt_affect: Labels in [-1, 1], float32 ``[T, 2]``; whatever stands on invalid frames is not read.
        gt_valid: True where the label counts, bool ``[T]``.
        gt_weight: How much it counts in the loss, 0 or more, float32 ``[T]``, 0 on invalid frames; absent where all
            count alike. Scores do not know it.
        gt_expression: Class of the expression, int64 ``[T]``, -1 where there is none; absent without such labels. It
            counts on its own: ``gt_valid`` speaks of valence and arousal alone.
        face_found: True where a face was seen, false where its box is only held or interpolated, bool ``[T]``; absent
            where nobody knows. It says what the network saw, and changes neither loss nor score.
        pred_affect: Predictions, float32 ``[T, 2]``, not clipped.
        pred_expression: Predicted class, int64 ``[T]``; absent without an expression head, as the next one.
        pred_scores: Score of every class, float32 ``[T, K]``; the highest is the predicted one.
        video: Key of the video (metainfo, as all below).
        frame_inds: Frame number of each row, ``T`` ints; -1 is padding beyond the end of the video.
        num_frames: Frames of the whole video.
        fps: Frames per second, on average where they do not come evenly.
        times: When each row is shown, ``T`` seconds; absent where frames come evenly.
        subject: Person (or conversation) that splits must keep together.
        source: Data set that it is of; absent where that does not say.
        expressions: Names of the classes of that set; absent where it has none.
        groups: What to score by itself, besides the subject, as ``{"culture": "C2"}``; absent where nothing is known.

    Example:
        >>> sample = AffectDataSample.from_clip([[0.37, -0.82]], video="a", frame_inds=[4], num_frames=9, fps=25.0)
        >>> sample.gt_affect.tolist()[0][0] == torch.tensor(0.37).item(), sample.gt_valid.tolist(), sample.frame_inds
        (True, [True], [4])
    """

    gt_affect: Tensor
    gt_valid: Tensor
    gt_weight: Tensor
    gt_expression: Tensor
    face_found: Tensor
    pred_affect: Tensor
    pred_expression: Tensor
    pred_scores: Tensor
    video: str
    frame_inds: list[int]
    num_frames: int
    fps: float
    times: list[float]
    subject: str
    source: str
    expressions: tuple[str, ...]
    groups: dict[str, str]

    @classmethod
    def from_clip(
        cls,
        affect: AffectLike | None = None,
        valid: MaskLike | None = None,
        *,
        video: str,
        frame_inds: Sequence[int] | NDArray[Any] | Tensor,
        num_frames: int,
        fps: float,
        subject: str = "",
        expression: ExpressionLike | None = None,
        face_found: MaskLike | None = None,
        times: Sequence[float] | NDArray[Any] | None = None,
        weight: Tensor | NDArray[Any] | Sequence[float] | None = None,
    ) -> "AffectDataSample":
        """Build the sample of one clip.

        Args:
            affect: Labels ``[T, 2]`` of a floating kind; None for a clip without labels.
            valid: Mask ``[T]``, all true by default. Padding is made invalid whatever the mask says.
            video: Key of the video.
            frame_inds: Frame number of each row, ``[T]``; -1 is padding.
            num_frames: Frames of the whole video.
            fps: Frames per second.
            subject: Person or conversation.
            expression: Classes ``[T]``, integers, -1 = none; None for a set without expressions. Padding gets -1.
            face_found: Mask ``[T]``, None if unknown. Padding gets false.
            times: Seconds ``[T]``; None where frames come evenly.
            weight: How much each label counts, 0 or more, ``[T]``; None for all alike. Invalid frames get 0.

        Returns:
            A sample that owns copies of the labels.

        Raises:
            ValueError: If the lengths differ, a label on a valid frame is not finite, or a weight is none.
        """
        inds = [int(i) for i in frame_inds]
        meta: dict[str, Any] = {
            "video": video,
            "frame_inds": inds,
            "num_frames": int(num_frames),
            "fps": float(fps),
            "subject": subject,
        }
        if times is not None:
            meta["times"] = [float(time) for time in times]
        sample = cls(metainfo=meta)
        real = torch.tensor(inds, dtype=torch.int64) >= 0
        if expression is not None:
            classes = _to_classes("gt_expression", expression)
            _check_length(video, "expression", classes, inds)
            sample.gt_expression = torch.where(real, classes.cpu(), -1)
        if face_found is not None:
            found = torch.as_tensor(face_found)
            _check_field("face_found", found)
            _check_length(video, "face_found", found, inds)
            sample.face_found = found.cpu() & real
        if affect is None:
            if valid is not None or weight is not None:
                raise ValueError(f"AffectDataSample({video}): valid and weight describe labels, but there are none.")
            return sample
        labels = _to_tensor("gt_affect", affect)
        mask = torch.ones(len(labels), dtype=torch.bool) if valid is None else torch.as_tensor(valid)
        _check_field("gt_valid", mask)
        if not len(labels) == len(mask) == len(inds):
            raise ValueError(
                f"AffectDataSample({video}): labels, mask and frame_inds must have one row per frame, "
                f"got {len(labels)}, {len(mask)} and {len(inds)}."
            )
        mask = mask.cpu() & real
        if not bool(torch.isfinite(labels[mask]).all()):
            raise ValueError(f"AffectDataSample({video}): labels of valid frames must be finite.")
        sample.gt_affect, sample.gt_valid = labels, mask
        if weight is not None:
            amounts = torch.as_tensor(weight)
            _check_field("gt_weight", amounts)
            _check_length(video, "weight", amounts, inds)
            amounts = torch.where(mask, amounts.to(torch.float32).cpu(), 0)
            if not bool((torch.isfinite(amounts) & (amounts >= 0)).all()):
                raise ValueError(f"AffectDataSample({video}): weights of valid frames must be finite and 0 or more.")
            sample.gt_weight = amounts
        return sample

    def set_pred(self, affect: AffectLike, scores: Tensor | None = None) -> "AffectDataSample":
        """Store predictions, on the device they are on.

        Args:
            affect: Valence and arousal ``[T, 2]``, kept as float32.
            scores: Score of every expression ``[T, K]``, kept as float32; the highest one is the predicted class.

        Returns:
            The sample.
        """
        self.pred_affect = _to_tensor("pred_affect", affect)
        if scores is not None:
            self.pred_scores = scores.to(torch.float32, copy=True)
            self.pred_expression = self.pred_scores.argmax(dim=1)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Travel between processes by value: a data loader would open shared memory for each of these few numbers."""
        state = self.__dict__.copy()
        small = {name: value for name in self.keys() if _goes_by_value(value := state[name])}
        arrays = {name: state.pop(name).numpy() for name in small}
        return {**state, "_arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up what `__getstate__` packed."""
        arrays = state.pop("_arrays")
        self.__dict__.update(state, **{name: torch.from_numpy(array) for name, array in arrays.items()})

    def set_field(self, value: Any, name: str, dtype: Any = None, field_type: str = "data") -> None:
        """Set any field; labels, masks and predictions are checked first (mmengine routes all setters here).

        Args:
            value: Value of the field.
            name: Name of the field.
            dtype: Type or types that ``value`` must be an instance of.
            field_type: ``"data"`` or ``"metainfo"``.
        """
        if name in _CHECKED_FIELDS:
            _check_field(name, value)
        super().set_field(value, name, dtype, field_type)


def _goes_by_value(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.device.type == "cpu"
        and not value.requires_grad
        and value.dtype in (torch.float32, torch.int64, torch.bool)
    )


def _to_tensor(name: str, affect: AffectLike) -> Tensor:
    """Return a float32 copy; a list must be checked before torch decides that [1, 0] are integers."""
    value = affect if isinstance(affect, Tensor | np.ndarray) else np.asarray(affect)
    _check_field(name, value)
    return torch.as_tensor(value).to(torch.float32, copy=True)


def _to_classes(name: str, expression: ExpressionLike) -> Tensor:
    """Return an int64 copy; whatever is no integer is refused."""
    value = torch.as_tensor(expression)
    kind = str(value.dtype).removeprefix("torch.")
    if "int" not in kind:
        raise TypeError(f"AffectDataSample: {name} must be integers, got {kind}.")
    value = value.to(torch.int64, copy=True)
    _check_field(name, value)
    if value.numel() and int(value.min()) < -1:
        raise ValueError(f"AffectDataSample: {name} must be -1 (none) or more, got {int(value.min())}.")
    return value


def _check_length(video: str, name: str, rows: Tensor, inds: list[int]) -> None:
    if len(rows) != len(inds):
        raise ValueError(
            f"AffectDataSample({video}): {name} and frame_inds must have one row per frame, "
            f"got {len(rows)} and {len(inds)}."
        )


def _check_field(name: str, value: Any) -> None:
    if not isinstance(value, Tensor | np.ndarray):
        raise TypeError(f"AffectDataSample: {name} must be a tensor or an array, got {type(value).__name__}.")
    shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    if name in (*_MASKS, *_EXPRESSION_FIELDS):
        kind = "bool" if name in _MASKS else "int64"
        if dtype != kind:
            raise TypeError(f"AffectDataSample: {name} must be {kind}, got {dtype}.")
        if len(shape) != 1:
            raise ValueError(f"AffectDataSample: {name} must be [T], got shape {shape}.")
        return
    if "float" not in dtype:
        raise TypeError(f"AffectDataSample: {name} must be floating, got {dtype} (integers lose the fraction).")
    if name == "pred_scores":
        if len(shape) != 2 or shape[1] < 2:
            raise ValueError(f"AffectDataSample: pred_scores must be [T, K] of two classes or more, got shape {shape}.")
        return
    if name == "gt_weight":
        if len(shape) != 1:
            raise ValueError(f"AffectDataSample: gt_weight must be [T], got shape {shape}.")
        return
    if len(shape) != 2 or shape[1] != 2:
        raise ValueError(f"AffectDataSample: {name} must be [T, 2] = (valence, arousal), got shape {shape}.")
