"""Frames with faces to affect: windows, crops and averages are those of training and test, at every rate."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocp_mm.apis import watching
from hocp_mm.apis.watching import watch
from hocp_mm.datasets.faces.crops import crop_frame, squares_of
from hocp_mm.datasets.faces.following import Face, Followed, Frame
from hocp_mm.datasets.transforms import clip_frames, window_starts
from hocp_mm.launch import ClipRule

SIDE = 4


def rule(clip_len=8, stride=4, smooth=1, interval=1, fps=None, size=SIDE):
    return ClipRule(size, 1.0, smooth, clip_len, interval, stride, fps=fps)


def picture(number):
    """Return a frame that says its number in every pixel."""
    red, green = divmod(number, 200)
    return np.full((SIDE, SIDE, 3), (red, green, 7), np.uint8)


def number_of(crop):
    return int(crop[0, 0, 0]) * 200 + int(crop[0, 0, 1])


def followed(times, faces=lambda number: (Face(1, None, True),), cuts=()):
    for number, time in enumerate(times):
        yield Followed(Frame(number, float(time), picture(number)), faces(number), number in cuts)


def run(times, own, fps, say=lambda numbers: numbers / 1000, batch_size=3, **options):
    """Return what was watched, and the frames of every window."""
    windows = []

    def predict(clips):
        rows = [[number_of(crop) for crop in clip] for clip in clips]
        windows.extend(map(tuple, rows))
        return np.stack([say(np.array(rows, np.float32)), np.zeros(np.shape(rows), np.float32)], axis=-1)

    stream = followed(times, **options)
    everybody = lambda item: [face.person for face in item.faces]  # noqa: E731
    return list(watch(stream, everybody, predict, own, own.stride, fps, batch_size=batch_size)), windows


@settings(max_examples=60)
@given(
    frames=st.integers(1, 70),
    length=st.integers(1, 12),
    stride=st.integers(1, 12),
    interval=st.integers(1, 3),
    timed=st.booleans(),
    batch_size=st.integers(1, 5),
)
def test_windows_are_those_of_the_data_set(frames, length, stride, interval, timed, batch_size):
    """With a rate or without, each frame has the mean of the windows that a test lays over the video."""
    stride = min(stride, length)
    own = rule(length, stride, interval=1 if timed else interval, fps=25.0 if timed else None)
    step = own.frame_interval
    seen, windows = run(np.arange(frames) / 25, own, 25.0, lambda n: n - n[:, :1], batch_size)
    clips = [clip_frames(frames, start, length, step).tolist() for start in window_starts(frames, length, stride, step)]
    assert sorted(windows) == sorted(tuple(frame if frame >= 0 else frames - 1 for frame in clip) for clip in clips)
    assert [item.frame.number for item in seen] == list(range(frames))
    for item in seen:
        values = [clip.index(item.frame.number) * step for clip in clips if item.frame.number in clip]
        np.testing.assert_allclose(item.affect[1], (np.clip(np.mean(values), -1, 1), 0), atol=1e-6)


@pytest.mark.parametrize("fps", [8.0, 12.5, 23.976, 24.0, 25.0, 30.0, 50.0, 59.94, 60.0])
def test_windows_hold_moments_of_the_rate_of_training(fps):
    """Each moment shows the frame that is nearest, and every frame has the value of its own time."""
    times = np.arange(round(4 * fps)) / fps
    seen, windows = run(times, rule(fps=25.0), fps, lambda n: n / fps / 4)
    for clip in windows:
        moments = times[list(clip)]
        wanted = moments[0] + np.arange(8) / 25
        assert np.abs(moments - wanted).max() <= 0.5 / fps + 0.5 / min(fps, 25) + 1e-9
    # A value that follows time is held for as long as its frame.
    found = np.array([item.affect[1][0] * 4 for item in seen])
    error = np.abs(found - times)
    assert error[: -round(fps / 25) - 1].max() <= 0.5 / fps + 0.5 / 25
    assert error.max() <= 0.5 / fps + 1 / 25  # after the last moment its value is held
    count = len({start for start, *_ in windows})
    assert abs(count - (4 * 25 - 8) / 4) <= 2


def test_uneven_frames_are_taken_at_their_times():
    times = np.concatenate([np.arange(30) / 30, 1 + np.arange(40) / 10])
    seen, windows = run(times, rule(fps=25.0), 18.2)
    late = [clip for clip in windows if times[clip[0]] >= 1.5 and times[clip[-1]] < 4.5]
    assert len(late) > 10
    for clip in late:
        assert len(set(clip)) in (3, 4, 5)  # 7 / 25 s at 10 frames per second
    assert len(seen) == 70
    assert all(1 in item.affect for item in seen)


@settings(max_examples=20, deadline=None)
@given(
    frames=st.integers(1, 40),
    smooth=st.integers(1, 30),
    aspect=st.sampled_from([1.0, 2.0, 0.5]),
    fps=st.sampled_from([10.0, 25.0, 30.0, 50.0]),
    seed=st.integers(0, 9),
)
def test_crops_are_those_of_training(frames, smooth, aspect, fps, seed):
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 255, (frames, 40, 60, 3), dtype=np.uint8)
    corner = rng.uniform(0, 20, (frames, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (frames, 2))], axis=1).astype(np.float32)
    own = ClipRule(12, 1.3, smooth, 1, 1, 1)
    clips = []

    def predict(batch):
        clips.extend(clip[0] for clip in batch)
        return np.zeros((len(batch), 1, 2), np.float32)

    stream = [Followed(Frame(n, n / fps, pictures[n]), (Face(1, boxes[n], True),), False) for n in range(frames)]
    list(watch(stream, lambda item: [1], predict, own, 1, fps, aspect))
    squares = squares_of(boxes, aspect, 1.3, smooth, fps)
    for number, crop in enumerate(clips):
        expected = crop_frame(pictures[number], squares, number, aspect, 12)
        assert np.abs(crop.astype(int) - expected).max() <= 1  # sums of another order
        assert (crop == expected).mean() > 0.99


def test_boxes_are_smoothed_over_as_long_a_time_at_every_rate():
    """At 50 frames per second over twice the frames of 25: the same film, the same crops."""

    def clips(fps):
        times = np.arange(round(4 * fps)) / fps
        found = []

        def predict(batch):
            found.extend(batch)
            return np.zeros((len(batch), 4, 2), np.float32)

        big = np.add.outer(np.arange(60), 3 * np.arange(90))[:, :, None].repeat(3, axis=2).astype(np.uint8)
        faces = [np.float32([20 + 8 * np.sin(9 * t), 10, 50 + 8 * np.sin(9 * t), 40]) for t in times]
        stream = (Followed(Frame(n, t, big), (Face(1, faces[n], True),), False) for n, t in enumerate(times))
        list(watch(stream, lambda item: [1], predict, ClipRule(24, 1.2, 25, 4, 1, 4, fps=25.0), 4, fps))
        return np.stack(found).astype(float)

    slow, fast = clips(25.0), clips(50.0)
    assert slow.shape == fast.shape
    assert np.abs(slow - fast).mean() < 3


def test_windows_cross_neither_cuts_nor_gaps_nor_people():
    def faces(number):
        if 40 <= number < 55:
            return ()
        return (Face(1 if number < 20 else 2, None, True),)

    seen, windows = run(np.arange(90) / 25, rule(), 25.0, faces=faces, cuts=(20, 70))
    sides = np.searchsorted([20, 40, 55, 70], np.arange(90), side="right")
    for clip in windows:
        assert len(set(sides[list(clip)])) == 1
    assert [not item.affect for item in seen] == [40 <= n < 55 for n in range(90)]
    assert [item.frame.number for item in seen if item.cut] == [20, 70]


def test_two_people_are_watched_at_once():
    def faces(number):
        return (Face(1, None, True), *((Face(2, None, number % 2 == 0),) if 10 <= number < 30 else ()))

    seen, _ = run(np.arange(40) / 25, rule(), 25.0, faces=faces)
    assert [sorted(item.affect) for item in seen] == [[1, 2] if 10 <= n < 30 else [1] for n in range(40)]


def test_what_is_held_does_not_depend_on_the_length():
    """Neither pictures nor values of a scene stay when they are no longer needed."""

    def most_held(frames, fps):
        alive = most = 0

        def gone():
            nonlocal alive
            alive -= 1

        def stream():
            nonlocal alive, most
            for number in range(frames):
                shown = np.zeros((SIDE, SIDE, 3), np.uint8)
                weakref.finalize(shown, gone)
                alive += 1
                most = max(most, alive)
                yield Followed(Frame(number, number / fps, shown), (Face(1, np.float32([0, 0, 3, 3]), True),), False)

        own = rule(16, 8, smooth=25, fps=25.0)
        for _ in watch(
            stream(), lambda item: [1], lambda clips: np.zeros((len(clips), 16, 2), np.float32), own, 8, fps
        ):
            pass
        gc.collect()
        return most

    assert most_held(1500, 25.0) == most_held(400, 25.0) < 120


def test_who_leaves_does_not_make_frames_wait_for_ever(monkeypatch):
    """A face of a second fills no batch, and the hours without one that follow are not held until another comes."""
    monkeypatch.setattr(watching, "_MOST_WAITING", 200 * (3 * SIDE * SIDE + watching._FRAME_BYTES))
    taken = 0

    def stream():
        nonlocal taken
        for item in followed(np.arange(2000) / 25, lambda number: (Face(1, None, True),) if number < 25 else ()):
            taken += 1
            yield item

    own = rule(16, 8, fps=25.0)
    nothing = lambda clips: np.zeros((len(clips), 16, 2), np.float32)  # noqa: E731
    for item in watch(stream(), lambda item: [1], nothing, own, 8, 25.0, batch_size=8):
        assert (1 in item.affect) == (item.frame.number < 25)
        assert taken - item.frame.number <= 201


@pytest.mark.parametrize("gap", [3.0, 36000.0])
def test_a_picture_that_stands_gives_as_many_windows_however_long_it_stands(gap):
    times = np.concatenate([np.arange(20) / 25, gap + np.arange(20) / 25])
    seen, windows = run(times, rule(fps=25.0), 40 / gap)
    assert all(1 in item.affect for item in seen)
    assert all(len({number < 20 for number in clip}) == 1 for clip in windows)
    assert len(windows) <= 2 * ((20 + 25) / 4 + 2)


@pytest.mark.parametrize("fps", [1.0, 1 / 15, 1 / 3600])
def test_frames_may_lie_hours_apart(fps):
    seen, windows = run(np.arange(6) / fps, rule(fps=25.0), fps)
    assert [item.frame.number for item in seen if 1 in item.affect] == list(range(6))
    assert len(windows) <= 6 * 8


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("ends", [{}, {"cuts": (2,)}, {"faces": lambda n: (Face(1, None, True),) if n < 3 else ()}])
def test_windows_do_not_wait_for_the_next_frame(batch_size, ends, monkeypatch):
    """A frame may complete very many: 40 at a thousand moments a second, as many as there are at an end."""
    made, asked, make = [], [], watching._Windows._window
    monkeypatch.setattr(watching._Windows, "_window", lambda self, start: made.append(start) or make(self, start))

    def predict(clips):
        asked.extend(clips)
        assert len(clips) <= batch_size
        assert len(asked) == len(made)  # no other window is there yet
        return np.zeros((len(clips), 8, 2), np.float32)

    stream = followed(np.arange(5) / 25, **ends)
    list(watch(stream, lambda item: [1], predict, rule(8, 1, fps=1000.0), 1, 25.0, batch_size=batch_size))
    assert len(asked) == len(made) > 90
