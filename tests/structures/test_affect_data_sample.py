"""`AffectDataSample` keeps fractions and refuses what would lose them."""

import copy
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch

from hocp_mm.structures import AROUSAL, VALENCE, AffectDataSample

CLIP: dict[str, Any] = {"video": "S001/a", "frame_inds": [3, 4, -1], "num_frames": 5, "fps": 25.0, "subject": "S001"}


def test_labels_keep_their_fraction_and_their_order() -> None:
    sample = AffectDataSample.from_clip([[0.37, -0.82], [0.1, 0.2], [0.0, 0.0]], **CLIP)
    assert sample.gt_affect.dtype == torch.float32
    assert sample.gt_affect[0, VALENCE].item() == pytest.approx(0.37)
    assert sample.gt_affect[0, AROUSAL].item() == pytest.approx(-0.82)


def test_padding_is_never_valid() -> None:
    sample = AffectDataSample.from_clip(np.zeros((3, 2)), np.array([True, False, True]), **CLIP)
    assert sample.gt_valid.tolist() == [True, False, False]


def test_metainfo_describes_the_clip() -> None:
    sample = AffectDataSample.from_clip(**CLIP | {"frame_inds": np.array([3, 4, -1])})
    assert sample.metainfo == CLIP
    assert "gt_affect" not in sample


def test_the_sample_owns_its_labels() -> None:
    labels = np.zeros((3, 2), dtype=np.float32)
    sample = AffectDataSample.from_clip(labels, **CLIP)
    labels[:] = 1
    assert sample.gt_affect.abs().max() == 0


def test_travels_between_processes_by_value() -> None:
    """A tensor in the queue of a data loader takes a file of shared memory; a sample takes none."""
    sample = AffectDataSample.from_clip(np.full((3, 2), 0.37), expression=[1, 2, -1], **CLIP)
    sample.set_pred(torch.full((3, 2), 0.25), torch.rand(3, 4))
    sample.set_field(np.float32([0.5]), "score")  # an array stays an array
    shared: list[Any] = []

    class Pickler(ForkingPickler):
        def reducer_override(self, value: Any) -> Any:
            shared.extend([value] if isinstance(value, torch.Tensor) else [])
            return NotImplemented

    buffer = io.BytesIO()
    Pickler(buffer, -1).dump(sample)
    assert shared == []
    for again in (pickle.loads(buffer.getvalue()), copy.deepcopy(sample), copy.copy(sample)):
        assert again.metainfo == sample.metainfo
        assert set(again.keys()) == set(sample.keys())
        for name in sample.keys():  # noqa: SIM118 - fields, not a dict
            value, expected = again.get(name), sample.get(name)
            assert type(value) is type(expected)
            assert value.dtype == expected.dtype
            assert np.array_equal(value, expected)
        again.pred_affect[:] = 0.5  # neither frozen nor refused
    assert isinstance(again.score, np.ndarray)
    with pytest.raises(TypeError, match="must be bool"):
        again.gt_valid = torch.ones(3)


def test_a_deep_copy_is_a_copy() -> None:
    sample = AffectDataSample.from_clip(np.zeros((3, 2)), **CLIP)
    copy.deepcopy(sample).gt_affect[:] = 1
    assert sample.gt_affect.abs().max() == 0


def test_moves_between_devices_kinds_and_dicts_without_loss() -> None:
    sample = AffectDataSample.from_clip(np.full((3, 2), 0.37), **CLIP).set_pred(torch.full((3, 2), 0.25))
    copy = sample.cpu().numpy().to_tensor()
    assert torch.equal(copy.gt_affect, sample.gt_affect)
    assert torch.equal(copy.pred_affect, sample.pred_affect)
    assert copy.to_dict()["frame_inds"] == [3, 4, -1]


def test_invalid_frames_may_hold_nan() -> None:
    labels = np.array([[0.5, 0.5], [np.nan, 0.0], [np.nan, np.nan]])
    sample = AffectDataSample.from_clip(labels, [True, False, True], **CLIP)
    assert sample.gt_valid.tolist() == [True, False, False]


REFUSALS = {
    "integer labels": ({"affect": [[1, 0], [0, 1], [0, 0]]}, TypeError, "gt_affect must be floating, got int64"),
    "labels of one value": ({"affect": np.zeros((3, 1))}, ValueError, r"gt_affect must be \[T, 2\]"),
    "a mask of numbers": ({"affect": np.zeros((3, 2)), "valid": [1, 1, 1]}, TypeError, "gt_valid must be bool"),
    "a shorter mask": ({"affect": np.zeros((3, 2)), "valid": [True]}, ValueError, "one row per frame, got 3, 1 and 3"),
    "labels of another length": ({"affect": np.zeros((2, 2))}, ValueError, "got 2, 2 and 3"),
    "NaN on a valid frame": ({"affect": np.full((3, 2), np.nan)}, ValueError, "must be finite"),
    "a mask without labels": ({"valid": [True] * 3}, ValueError, "there are none"),
    "weights without labels": ({"weight": [1.0] * 3}, ValueError, "there are none"),
    "a weight below zero": (
        {"affect": np.zeros((3, 2)), "weight": [1.0, -0.1, 1.0]},
        ValueError,
        "finite and 0 or more",
    ),
    "a weight that is none": (
        {"affect": np.zeros((3, 2)), "weight": [1.0, np.nan, 1.0]},
        ValueError,
        "finite and 0 or",
    ),
    "fewer weights": ({"affect": np.zeros((3, 2)), "weight": [1.0]}, ValueError, "one row per frame, got 1 and 3"),
    "whole weights": ({"affect": np.zeros((3, 2)), "weight": [1, 1, 0]}, TypeError, "gt_weight must be floating"),
    "weights of two values": ({"affect": np.zeros((3, 2)), "weight": np.ones((3, 2))}, ValueError, r"must be \[T\]"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_labels_are_refused(case: str) -> None:
    arguments, kind, text = REFUSALS[case]
    with pytest.raises(kind, match=text):
        AffectDataSample.from_clip(**arguments, **CLIP)


def test_assignment_is_checked_too() -> None:
    sample = AffectDataSample()
    with pytest.raises(TypeError, match="pred_affect must be floating"):
        sample.pred_affect = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match="must be a tensor or an array, got list"):
        AffectDataSample(gt_affect=[[0.1, 0.2]])
    with pytest.raises(ValueError, match=r"gt_valid must be \[T\]"):
        sample.gt_valid = torch.zeros(3, 2, dtype=torch.bool)


def test_expressions_are_integers_and_padding_has_none() -> None:
    sample = AffectDataSample.from_clip(np.zeros((3, 2)), expression=np.array([7, -1, 3], dtype=np.int8), **CLIP)
    assert sample.gt_expression.dtype == torch.int64
    assert sample.gt_expression.tolist() == [7, -1, -1]
    assert AffectDataSample.from_clip(expression=[0, 1, 2], **CLIP).gt_expression.tolist() == [0, 1, -1]
    assert "gt_expression" not in AffectDataSample.from_clip(np.zeros((3, 2)), **CLIP)


def test_the_highest_score_is_the_predicted_class() -> None:
    scores = torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], dtype=torch.float64)
    sample = AffectDataSample().set_pred(torch.zeros(2, 2), scores)
    assert sample.pred_expression.tolist() == [1, 0]
    assert sample.pred_scores.dtype == torch.float32
    assert "pred_scores" not in AffectDataSample().set_pred(torch.zeros(2, 2))


EXPRESSION_REFUSALS = {
    "fractions": ([0.5, 1.0, 2.0], TypeError, "gt_expression must be integers, got float32"),
    "a mask": ([True, False, True], TypeError, "gt_expression must be integers, got bool"),
    "another length": ([1, 2], ValueError, "expression and frame_inds must have one row per frame, got 2 and 3"),
    "a class below none": ([0, -2, 1], ValueError, r"gt_expression must be -1 \(none\) or more, got -2"),
    "two columns": (np.zeros((3, 2), dtype=np.int64), ValueError, r"gt_expression must be \[T\], got shape \(3, 2\)"),
}


@pytest.mark.parametrize("case", EXPRESSION_REFUSALS)
def test_wrong_expressions_are_refused(case: str) -> None:
    expression, kind, text = EXPRESSION_REFUSALS[case]
    with pytest.raises(kind, match=text):
        AffectDataSample.from_clip(np.zeros((3, 2)), expression=expression, **CLIP)


def test_assigned_expressions_are_checked_too() -> None:
    with pytest.raises(TypeError, match="gt_expression must be int64, got float32"):
        AffectDataSample(gt_expression=torch.zeros(3))
    with pytest.raises(TypeError, match="pred_scores must be floating, got int64"):
        AffectDataSample().pred_scores = torch.zeros(3, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"pred_scores must be \[T, K\] of two classes or more, got shape \(3, 1\)"):
        AffectDataSample().pred_scores = torch.zeros(3, 1)


def test_where_a_face_was_found_is_kept_and_padding_shows_none() -> None:
    found = np.array([False, True, True])
    sample = AffectDataSample.from_clip(np.zeros((3, 2)), face_found=found, **CLIP)
    found[:] = True
    assert sample.face_found.tolist() == [False, True, False]
    assert AffectDataSample.from_clip(face_found=[True, True, True], **CLIP).face_found.tolist() == [True, True, False]
    assert "face_found" not in AffectDataSample.from_clip(np.zeros((3, 2)), **CLIP)
    assert sample.cpu().numpy().to_tensor().face_found.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("found", "error", "text"),
    [
        ([1, 0, 1], TypeError, "face_found must be bool, got int64"),
        (np.ones((3, 1), dtype=bool), ValueError, r"face_found must be \[T\], got shape \(3, 1\)"),
        ([True, True], ValueError, r"\(S001/a\): face_found and frame_inds must have one row per frame, got 2 and 3"),
    ],
)
def test_wrong_flags_are_refused(found: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        AffectDataSample.from_clip(np.zeros((3, 2)), face_found=found, **CLIP)
    sample = AffectDataSample.from_clip(np.zeros((3, 2)), **CLIP)
    with pytest.raises(TypeError, match="face_found must be bool, got float32"):
        sample.face_found = torch.ones(3)


def test_weights_are_those_of_valid_frames() -> None:
    weight = np.array([0.25, np.nan, 0.5])
    sample = AffectDataSample.from_clip(np.zeros((3, 2)), [True, False, True], weight=weight, **CLIP)
    assert sample.gt_weight.dtype == torch.float32
    assert sample.gt_weight.tolist() == [0.25, 0, 0]  # the last row is padding
    assert pickle.loads(pickle.dumps(sample)).gt_weight.tolist() == [0.25, 0, 0]
    assert "gt_weight" not in AffectDataSample.from_clip(np.zeros((3, 2)), **CLIP)
