"""Rendering: pixels and landmarks agree."""

import numpy as np
import pytest

from hocp_mm.synthetic import Expression, HeadPose, SyntheticFace, sample_identity, sample_scene

TURNED = HeadPose(shift=(9, -6), roll=0.12, scale=1.05, turn=(0.35, -0.2))


def face(seed=0):
    rng = np.random.default_rng(seed)
    identity = sample_identity(rng)
    return SyntheticFace(identity, sample_scene(rng, identity), rng)


def changed(first, second, threshold=12):
    """Return rows and columns of the pixels that differ clearly, as ``[n, 2]`` points (x, y)."""
    rows, columns = np.nonzero(np.abs(first.astype(int) - second.astype(int)).max(axis=-1) > threshold)
    return np.stack([columns, rows], axis=-1)


def test_frame_is_rgb_bytes_with_landmarks_inside():
    image, landmarks = face().render(Expression())
    assert image.shape == (240, 320, 3)
    assert image.dtype == np.uint8
    assert landmarks.shape == (49, 2)
    assert (landmarks > 0).all()
    assert (landmarks < (320, 240)).all()


def test_equal_calls_give_equal_frames_and_leave_no_trace():
    drawn = face()
    first, _ = drawn.render(Expression(mouth_open=0.3))
    drawn.render(Expression(mouth_open=1, smile=-1), TURNED)
    again, _ = drawn.render(Expression(mouth_open=0.3))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pose", [HeadPose(), TURNED], ids=["rest", "turned"])
def test_what_moves_in_the_picture_lies_where_the_landmarks_say(seed, pose):
    drawn = face(seed)
    closed, _ = drawn.render(Expression(mouth_open=0), pose)
    opened, landmarks = drawn.render(Expression(mouth_open=1), pose)
    points = changed(closed, opened)
    mouth = landmarks[31:]
    assert len(points) > 150
    assert (points > mouth.min(axis=0) - 6).all()
    assert (points < mouth.max(axis=0) + 6).all()

    left, _ = drawn.render(Expression(gaze=(-1, 0)), pose)
    right, landmarks = drawn.render(Expression(gaze=(1, 0)), pose)
    points = changed(left, right)
    distance = np.abs(points[:, None] - landmarks[None, 19:31]).max(axis=-1).min(axis=1)
    assert len(points) > 20
    assert distance.max() < 9


def test_mouth_flutter_survives_a_crop_of_64_pixels():
    from skimage.transform import resize

    drawn = face()
    frames = []
    for opened in (0.2, 0.8):
        image, landmarks = drawn.render(Expression(mouth_open=opened))
        left, top = (landmarks.min(axis=0) - 20).astype(int)
        right, bottom = (landmarks.max(axis=0) + 20).astype(int)
        frames.append(resize(image[top:bottom, left:right].mean(axis=-1), (64, 64)))
    assert (np.abs(frames[0] - frames[1]) > 20).sum() > 25


def test_noise_and_exposure_change_the_camera_only():
    drawn = face()
    plain, landmarks = drawn.render(Expression())
    noisy, same = drawn.render(Expression(), noise_offset=(7, 30))
    bright, _ = drawn.render(Expression(), exposure=1.2)
    np.testing.assert_array_equal(landmarks, same)
    assert 0.5 < np.abs(plain.astype(int) - noisy).mean() < 8
    assert bright.mean() > 1.1 * plain.mean()


def test_noise_offset_out_of_range_is_refused():
    with pytest.raises(ValueError, match="noise_offset must lie in"):
        face().render(Expression(), noise_offset=(0, 33))


def test_cascade_finds_the_faces():
    data = pytest.importorskip("skimage.data")
    from skimage.feature import Cascade

    detector = Cascade(data.lbp_frontal_face_cascade_filename())
    found = 0
    for seed in range(6):
        image, landmarks = face(seed).render(Expression(mouth_open=0.3), HeadPose(turn=(0.1, 0.05)))
        boxes = detector.detect_multi_scale(
            image, scale_factor=1.2, step_ratio=1, min_size=(50, 50), max_size=(200, 200)
        )
        x, y = landmarks.mean(axis=0)
        found += any(
            box["c"] < x < box["c"] + box["width"] and box["r"] < y < box["r"] + box["height"] for box in boxes
        )
    assert found >= 5
