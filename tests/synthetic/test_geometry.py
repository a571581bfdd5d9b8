"""Curves and landmarks of a face."""

import numpy as np
import pytest

from hocp_mm.synthetic.geometry import Expression, face_geometry
from hocp_mm.synthetic.identity import sample_identity

LEFT_CORNER, UPPER_LIP, RIGHT_CORNER, LOWER_LIP = 31, 34, 37, 40


def landmarks(seed=0, **expression):
    identity = sample_identity(np.random.default_rng(seed))
    return face_geometry(identity, Expression(**expression)).landmarks()


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_follow_the_order_of_the_49_points(seed):
    points = landmarks(seed)
    assert points.shape == (49, 2)
    x, y = points.T
    assert (np.diff(x[:10]) > 0).all()  # brows from left to right
    assert (np.diff(y[10:14]) > 0).all()  # down the nose
    assert (np.diff(x[14:19]) > 0).all()  # along the nostrils
    assert x[19:25].max() < 0 < x[25:31].min()  # left eye, right eye
    assert x[31:38].argmax() == 6  # along the upper lip to the right corner
    assert (np.diff(x[37:43]) < 0).all()  # back along the lower lip
    assert y[:10].max() < y[19:31].min() < y[13] < y[31:].min()


@pytest.mark.parametrize("seed", range(5))
def test_face_at_rest_is_symmetric(seed):
    points = landmarks(seed)
    mirrored = points * (-1, 1)
    for point in mirrored[:10]:
        assert np.abs(points[:10] - point).sum(axis=1).min() < 1e-9


def test_smile_lifts_the_corners_and_frown_lowers_them():
    low, rest, high = (landmarks(smile=smile)[[LEFT_CORNER, RIGHT_CORNER], 1] for smile in (-1, 0, 1))
    assert (low - rest > 5).all()
    assert (rest - high > 5).all()


def test_frown_draws_the_inner_brows_down_and_together():
    rest, drawn = landmarks(frown=0), landmarks(frown=1)
    assert (drawn[[4, 5], 1] - rest[[4, 5], 1] > 5).all()
    assert drawn[5, 0] - drawn[4, 0] < rest[5, 0] - rest[4, 0] - 3


def test_brows_rise_by_several_pixels():
    assert (landmarks(brow_raise=-1)[:10, 1] - landmarks(brow_raise=1)[:10, 1] > 8).all()


def test_mouth_opens_by_several_pixels_without_moving_its_corners():
    closed, opened = landmarks(mouth_open=0), landmarks(mouth_open=1)
    assert opened[LOWER_LIP, 1] - closed[LOWER_LIP, 1] > 8
    assert closed[UPPER_LIP, 1] > opened[UPPER_LIP, 1]
    np.testing.assert_allclose(opened[[LEFT_CORNER, RIGHT_CORNER], 1], closed[[LEFT_CORNER, RIGHT_CORNER], 1])


def test_closed_lids_meet():
    geometry = face_geometry(sample_identity(np.random.default_rng(0)), Expression(eye_open=0))
    np.testing.assert_allclose(geometry.upper_lids, geometry.lower_lids)
