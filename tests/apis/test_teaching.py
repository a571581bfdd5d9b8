"""What a teacher says: the mean of two views, smoothed, with gaps where nobody is; and how sure it is."""

import numpy as np
import pytest

from hocp_mm.apis import Teacher
from hocp_mm.apis.smoothing import smooth_over_time
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.errors import HOCPError, NoFaceError
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video

BOX = (14, 8, 26, 22)
FLIPPED = (64 - BOX[0] - BOX[2], *BOX[1:])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    cfg = tiny_config()
    return write_checkpoint(tmp_path_factory.mktemp("teacher") / "tiny.pth", cfg, tiny_network(cfg))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("film") / "v.mp4", noise(21))


def one_scene(count):
    return np.zeros(count, np.int64)


TIMES = np.arange(40) / 25


def test_a_steady_rise_stays_as_it_is_also_at_the_ends():
    rise = np.stack([TIMES, 0.5 - 0.3 * TIMES], axis=1)
    np.testing.assert_allclose(smooth_over_time(rise, TIMES, 0.2, one_scene(40)), rise, atol=1e-12)
    uneven = np.sort(np.random.default_rng(0).uniform(0, 2, 40))
    rise = np.stack([uneven, 1 - uneven], axis=1)
    np.testing.assert_allclose(smooth_over_time(rise, uneven, 0.2, one_scene(40)), rise, atol=1e-9)


def test_a_peak_stays_in_its_place():
    times, peak = np.arange(60) / 25, np.zeros((60, 1))
    peak[30] = 1
    smooth = smooth_over_time(peak, times, 0.1, one_scene(60))[:, 0]
    assert smooth.argmax() == 30
    np.testing.assert_allclose(smooth[15:30], smooth[45:30:-1], atol=1e-12)
    weights = np.exp(-0.5 * ((times - times[30]) / 0.1) ** 2)
    np.testing.assert_allclose(smooth, weights / weights.sum(), atol=2e-4)  # cut off at four deviations


def test_the_filter_is_one_of_seconds_not_of_frames():
    noisy = np.random.default_rng(0).normal(size=(80, 1))
    fast = smooth_over_time(np.repeat(noisy, 2, axis=0), np.arange(160) / 50, 0.2, one_scene(160))
    slow = smooth_over_time(noisy, np.arange(80) / 25 + 0.01, 0.2, one_scene(80))
    assert np.abs(fast.reshape(80, 2).mean(axis=1) - slow[:, 0])[10:-10].max() < 0.02
    assert slow[10:-10].std() < 0.5 * noisy.std()


def test_noise_gets_smaller():
    noisy = TIMES[:, None] + 0.1 * np.random.default_rng(1).normal(size=(40, 2))
    smooth = smooth_over_time(noisy, TIMES, 0.2, one_scene(40))
    assert np.abs(smooth - TIMES[:, None]).mean() < 0.5 * np.abs(noisy - TIMES[:, None]).mean()


def test_nothing_passes_a_gap_or_a_cut():
    values = np.where(np.arange(40)[:, None] < 20, 1.0, -1.0) * np.ones((40, 2))
    gap = values.copy()
    gap[18:21] = np.nan
    smooth = smooth_over_time(gap, TIMES, 0.5, one_scene(40))
    assert np.isnan(smooth[18:21]).all()
    np.testing.assert_allclose(smooth[np.isfinite(gap)], gap[np.isfinite(gap)], atol=1e-12)
    scenes = (np.arange(40) >= 20).astype(np.int64)
    np.testing.assert_allclose(smooth_over_time(values, TIMES, 0.5, scenes), values, atol=1e-12)
    assert np.abs(smooth_over_time(values, TIMES, 0.5, one_scene(40)) - values).max() > 0.5


def test_zero_seconds_change_nothing_and_a_single_frame_is_itself():
    values = np.array([[0.3, np.nan], [0.1, 0.2]])
    np.testing.assert_array_equal(smooth_over_time(values, TIMES[:2], 0, one_scene(2)), values)
    np.testing.assert_array_equal(smooth_over_time(values[1:], TIMES[:1], 0.2, one_scene(1)), values[1:])


def test_labels_are_the_mean_of_both_views(checkpoint, tmp_path):
    frames = noise(21)
    left = write_video(tmp_path / "l.avi", frames, codec="ffv1")
    teacher = Teacher(checkpoint, device="cpu", seconds=0)
    labels = teacher.label(left, BOX)
    once = teacher.inferencer.predict(left, BOX).pred
    both = teacher.inferencer.predict(left, BOX, flip=True).pred
    assert np.abs(once - both).max() > 0.02
    np.testing.assert_allclose(labels.affect, both, atol=1e-5)
    np.testing.assert_allclose(labels.times, np.arange(21) / 25)
    away = np.square(once - both).sum(axis=1) / 2  # the mirrored view lies as far on the other side
    np.testing.assert_allclose(labels.confidence, 1 / (1 + away / 0.1**2), rtol=1e-4)
    smoothed = Teacher(checkpoint, device="cpu", seconds=0.1, tolerance=1e6).label(left, BOX).affect
    expected = smooth_over_time(labels.affect, labels.times, 0.1, one_scene(21))
    np.testing.assert_allclose(smoothed, np.clip(expected, -1, 1), atol=1e-5)


def test_a_network_that_mirrors_by_itself_gives_the_same_labels(tmp_path, checkpoint, video):
    cfg = tiny_config()
    cfg.model.test_cfg = {"flip": True}
    network = tiny_network(tiny_config())
    flips = write_checkpoint(tmp_path / "flips.pth", cfg, network)
    ours, theirs = (Teacher(file, device="cpu").label(video, BOX) for file in (flips, checkpoint))
    np.testing.assert_allclose(ours.affect, theirs.affect, atol=1e-6)
    np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-5)
    assert ours.confidence.min() < 0.99  # the views differ


def test_whoever_disagrees_with_mirror_or_neighbours_is_less_sure(checkpoint):
    teacher = Teacher(checkpoint, device="cpu", seconds=0.1)
    calm = np.tile(np.float64([0.2, 0.1, 0.2, 0.1]), (40, 1))
    assert teacher._judge(calm, TIMES, one_scene(40))[1].min() == pytest.approx(1)
    mirrored = calm.copy()
    mirrored[20] += [0.2, 0.2, -0.2, -0.2]
    jumping = calm + 0.2 * (-1.0) ** np.arange(40)[:, None]
    for changed in (mirrored, jumping):
        sure = teacher._judge(changed, TIMES, one_scene(40))[1]
        assert sure[20] < 0.95
        assert ((sure > 0) & (sure <= 1)).all()
    wild = teacher._judge(calm + 10.0 * (-1.0) ** np.arange(40)[:, None], TIMES, one_scene(40))
    assert np.abs(wild[0]).max() <= 1
    assert wild[1][10:30].max() < 0.1


def test_what_neighbours_contradict_is_not_believed(checkpoint):
    teacher = Teacher(checkpoint, device="cpu", seconds=0.2)
    views = np.tile(np.float64([0.4, -0.8, 0.4, -0.8]), (40, 1)) + 0.3 * TIMES[:, None]
    truth = views[:, :2].copy()
    views[[5, 9, 10, 20, 22, 30, 34]] = 0.0  # nothing was to be seen in these frames
    labels, sure = teacher._judge(views, TIMES, one_scene(40))
    plain = smooth_over_time(views[:, :2], TIMES, 0.2, one_scene(40))
    assert np.abs(labels - truth).max() < 0.05 < 0.15 < np.abs(plain - truth).max()
    assert sure[9] < sure[15]


def test_weights_are_says():
    values = np.array([[0.0], [1.0], [0.0]])
    twice = smooth_over_time(values, TIMES[:3], 0.1, one_scene(3), np.array([1.0, 2.0, 1.0]))
    again = smooth_over_time(values[[0, 1, 1, 2]], TIMES[[0, 1, 1, 2]], 0.1, one_scene(4))
    np.testing.assert_allclose(twice, again[[0, 1, 3]], atol=1e-12)


def test_where_nobody_is_there_is_no_label(checkpoint, tmp_path):
    """Frames that are black from one second to the next: the detector sees nobody there."""
    frames = noise(100)
    for frame in frames[40:75]:
        frame[:] = 0
    film = write_video(tmp_path / "gap.mp4", frames)
    x, y, width, height = BOX

    def detector(picture):
        seen = picture.mean() > 20
        boxes = np.float32([[x, y, x + width, y + height]] if seen else np.empty((0, 4)))
        return Detections(boxes, np.ones(len(boxes), np.float32))

    labels = Teacher(checkpoint, device="cpu", seconds=1.0).label(film, detector)
    gap = np.isnan(labels.affect).all(axis=1)
    assert gap[45:70].all()
    assert not gap[:40].any()
    assert not gap[80:].any()
    assert (labels.confidence[gap] == 0).all()
    assert (labels.confidence[~gap] > 0).all()
    assert np.isnan(labels.boxes[gap]).all()
    assert np.isfinite(labels.boxes[~gap]).all()
    with pytest.raises(NoFaceError, match=r"gap\.mp4: no face found in 100 frames"):
        Teacher(checkpoint, device="cpu").label(film, lambda picture: Detections(np.empty((0, 4)), np.empty(0)))


@pytest.mark.parametrize("options", [{"seconds": -1}, {"seconds": np.nan}, {"tolerance": 0}, {"tolerance": np.inf}])
def test_numbers_out_of_their_range_are_refused(checkpoint, options):
    with pytest.raises(HOCPError, match="Teacher: seconds must be 0 or more and tolerance above 0"):
        Teacher(checkpoint, device="cpu", **options)
