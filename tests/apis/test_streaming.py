"""Frames of a camera get what the same film gets as a file, as far as that can be known while they come."""

import gc
import io
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hocp_mm.apis import AffectInferencer, AffectStream
from hocp_mm.apis import inferencer as inferencer_module
from hocp_mm.datasets import iter_frames, probe_video
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.errors import CheckpointError
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video

BOX = (14, 8, 26, 22)


def make(folder: Path, init: str = "last", fps: float | None = None, flip: bool = False, **settings: Any) -> Any:
    """Return an inferencer of a network whose windows are as long as ``clip_len``."""
    cfg = tiny_config(**settings)
    cfg.model.backbone.temporal_init = init
    cfg.model.test_cfg = {"flip": flip}
    if fps is not None:
        cfg.test_dataloader.dataset.pipeline[0].pop("frame_interval")
        cfg.test_dataloader.dataset.pipeline[0].fps = fps
    checkpoint = write_checkpoint(folder / f"{init}{fps}{flip}.pth", cfg, tiny_network(cfg))
    return AffectInferencer(checkpoint, device="cpu")


def calm(count: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Return frames that all differ, by less than a cut does."""
    return [np.uint8(100 + 0.1 * frame) for frame in noise(count, size)]


class Looks:
    """Finds what a plan says of the frame that it is shown, by number."""

    needs = "nothing"

    def __init__(self, pictures, plan):
        self.numbers = {picture.tobytes(): number for number, picture in enumerate(pictures)}
        self.plan = plan

    def __call__(self, frame):
        boxes = np.float32(self.plan(self.numbers[frame.tobytes()])).reshape(-1, 4)
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32))


def run(stream: AffectStream, pictures, fps: float = 25.0) -> list[Any]:
    pictures = list(pictures)
    found = list(stream.watch((7 + number / fps, picture) for number, picture in enumerate(pictures)))
    assert [item.frame.number for item in found] == list(range(len(pictures)))
    np.testing.assert_allclose([item.frame.time for item in found], np.arange(len(pictures)) / fps, atol=1e-9)
    return found


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("init", "frames", "fps", "rate", "settings"),
    [
        ("last", 21, 25, None, {"clip_len": 30}),  # shorter than a window
        ("last", 21, 25, 25.0, {"clip_len": 30}),
        ("last", 23, 25, None, {"clip_len": 12, "frame_interval": 2}),
        ("central", 16, 25, 25.0, {"clip_len": 16}),  # as long as a window
        ("central", 16, 25, None, {"clip_len": 8, "frame_interval": 2}),
        ("last", 1, 25, None, {"clip_len": 4}),
    ],
)
def test_where_one_window_holds_a_film_the_stream_says_the_same(tmp_path, live, init, frames, fps, rate, settings):
    video = write_video(tmp_path / "v.mp4", noise(frames), fps=fps)
    inferencer = make(tmp_path, init, rate, **settings)
    expected = inferencer.predict(video, BOX)
    stream = AffectStream(inferencer, BOX, live=live, fps=float(fps))
    found = run(stream, iter_frames(video), fps)
    np.testing.assert_allclose([item.affect[1] for item in found], expected.pred, atol=1e-5)
    assert frames == 1 or np.ptp(expected.pred, axis=0).min() > 0.02
    assert (stream.delay > 0) == (not live or init == "central")


@pytest.mark.parametrize("fps", [8, 12.5, 24, 30, 50])
def test_frames_of_any_rate_are_laid_on_the_moments_of_training(tmp_path, fps):
    video = write_video(tmp_path / "v.mp4", noise(20), fps=fps)
    inferencer = make(tmp_path, "last", 25.0, clip_len=80)
    expected = inferencer.predict(video, BOX).pred
    waits = run(AffectStream(inferencer, BOX, live=False, fps=fps), iter_frames(video), fps)
    np.testing.assert_allclose([item.affect[1] for item in waits], expected, atol=1e-5)
    # At once nothing is known of the next moment, so that of the frame stands for it: the crops are the same ones.
    live = np.array([item.affect[1] for item in run(AffectStream(inferencer, BOX, fps=fps), iter_frames(video), fps)])
    moments = np.arange(20) / fps * 25
    on_time = np.abs(moments - moments.round()) < 1e-6
    np.testing.assert_allclose(live[on_time], expected[on_time], atol=1e-5)
    assert on_time[0]


def test_people_cuts_and_gaps_are_those_of_the_file(tmp_path, monkeypatch):
    """Two people, one of whom leaves and comes back, and a cut: the same faces in every frame, and the same crops."""
    pictures = [frame + np.uint8(100 * (number >= 40)) for number, frame in enumerate(calm(56))]
    shown = list(iter_frames(video := write_video(tmp_path / "v.avi", pictures, codec="ffv1")))

    def plan(number):
        first = [[4 + 0.05 * number, 6, 24 + 0.05 * number, 26]]
        second = [] if 12 <= number < 25 else [[40, 20 + 0.1 * (number % 20), 56, 36 + 0.1 * (number % 20)]]
        return first + second

    inferencer = make(tmp_path, "last", clip_len=8)
    detector = Looks(shown, plan)
    cropped, predict = set(), inferencer.predict_clips

    def predicted(clips, *rest):
        cropped.update(crop.tobytes() for clip in clips for crop in clip)
        return predict(clips, *rest)

    monkeypatch.setattr(inferencer, "predict_clips", predicted)
    expected = list(inferencer.watch(video, detector, person="all"))
    stream = AffectStream(inferencer, detector, "all", live=False, fps=25.0)
    streamed, normalised = set(), stream._normalised

    def taken(clip):
        streamed.update(crop.tobytes() for crop in clip.transpose(1, 2, 3, 0))
        return normalised(clip)

    monkeypatch.setattr(stream, "_normalised", taken)
    found = run(stream, shown)
    assert streamed == cropped
    assert {person for item in expected for person in item.affect} == {1, 2, 3, 4}  # nobody is known behind a cut
    assert [item.frame.number for item in expected if item.cut] == [40]
    for one, other in zip(found, expected, strict=True):
        assert one.cut == other.cut
        assert [(f.person, f.seen, f.box.tolist()) for f in one.faces] == [
            (f.person, f.seen, f.box.tolist()) for f in other.faces
        ]
        assert one.affect.keys() == other.affect.keys()


def test_each_person_has_what_she_has_alone(tmp_path):
    pictures = calm(24, (96, 48))
    boxes = [[6, 8, 30, 32], [60, 10, 80, 30]]
    inferencer = make(tmp_path, "central", clip_len=8, flip=True)
    both = run(AffectStream(inferencer, Looks(pictures, lambda n: boxes), "all"), pictures)
    for person, box in enumerate(boxes, start=1):
        alone = run(AffectStream(inferencer, Looks(pictures, lambda n, box=box: [box])), pictures)
        values = [
            (item.affect[person], other.affect[1]) for item, other in zip(both, alone, strict=True) if item.affect
        ]
        assert len(values) == 19  # from the second look on
        np.testing.assert_allclose(*zip(*values, strict=True), atol=1e-5)


def test_a_live_face_that_goes_is_not_seen_and_then_gone(tmp_path):
    """For as long as a window may bridge, her last place is shown and said not to be seen; then nothing is said."""
    pictures = calm(55)
    inferencer = make(tmp_path, "last", clip_len=12)
    detector = Looks(pictures, lambda n: [] if 25 <= n < 45 or n == 10 else [[14, 8, 40, 30]])
    stream = AffectStream(inferencer, detector, fps=25.0)
    said, seen, streams = [], [], []
    for number, picture in enumerate(pictures):
        (item,) = stream.push(picture, number / 25)  # at once
        said.append(list(item.affect))
        seen.append([face.seen for face in item.faces])
        streams.append(stream.network.streams)
    there = [5 <= n <= 20 + 12 or n >= 45 for n in range(55)]
    assert said == [[1] if own else [] for own in there]
    assert [own == [True] for own in seen] == [(5 <= n < 25 and not 10 <= n < 15) or n >= 45 for n in range(55)]
    assert streams[40] == ()
    assert streams[20] != streams[50]  # she is the same person, and her network begins anew


def test_a_live_face_is_cropped_where_it_was_on_average(tmp_path):
    """The mean of the boxes of half a second before: for a face that stands still, the crop of training."""
    pictures = calm(14)
    inferencer = make(tmp_path)
    found = run(AffectStream(inferencer, Looks(pictures, lambda n: [[14, 8, 40, 30]]), fps=25.0), pictures)
    box = run(AffectStream(inferencer, BOX, fps=25.0), pictures[5:])
    np.testing.assert_allclose([i.affect[1] for i in found[5:]], [i.affect[1] for i in box], atol=1e-5)


@pytest.mark.parametrize("live", [True, False])
def test_what_is_held_does_not_depend_on_the_length(tmp_path, live):
    inferencer = make(tmp_path, "last", 25.0, clip_len=8)

    def most_held(frames):
        stream = AffectStream(inferencer, BOX, live=live, fps=25.0)
        alive = set()
        most = 0
        for number in range(frames):
            picture = np.full((48, 64, 3), number % 250, np.uint8)
            alive.add(number)
            weakref.finalize(picture, alive.discard, number)
            stream.push(picture, number / 25)
            most = max(most, len(alive))
        gc.collect()
        kept = sum(len(scene._places) + scene.steps[0]._values.__len__() for scene in stream._watching._scenes.values())
        return most, kept, len(stream._came)

    assert most_held(60) == most_held(35)
    assert most_held(35)[0] < (4 if live else 30)


def test_latency_and_rate_come_with_the_frames(tmp_path):
    stream = AffectStream(make(tmp_path), BOX)
    found = run(stream, noise(8))
    assert all(0 < item.latency < 10 for item in found)
    assert math.isnan(found[0].rate)
    assert all(item.rate > 0 for item in found[1:])
    assert stream.network.streams == ()
    again = run(stream, noise(8))  # the end was a new beginning
    np.testing.assert_allclose([i.affect[1] for i in again], [i.affect[1] for i in found], atol=1e-6)


def test_a_clock_is_read_where_no_time_is_given(tmp_path):
    stream = AffectStream(make(tmp_path), BOX)
    times = [item.frame.time for picture in noise(4) for item in stream.push(picture)]
    assert times[0] == 0
    assert all(0 < gap < 10 for gap in np.diff(times))


def test_a_slow_camera_is_told_once(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(inferencer_module, "print_log", lambda text, **_: told.append(text))
    stream = AffectStream(make(tmp_path, "last", 25.0), BOX)
    monkeypatch.setattr(stream.network, "push", lambda clips: {k: torch.zeros(c.shape[1], 2) for k, c in clips.items()})
    for number, picture in enumerate(noise(2) * 30):
        stream.push(picture, number / 8)
    assert len(told) == 1
    assert "the stream: has 8 frames per second, training showed no less than 25" in told[0]


def test_what_is_no_frame_is_refused_at_the_door(tmp_path):
    inferencer = make(tmp_path)
    stream, picture = AffectStream(inferencer, BOX), noise(1)[0]
    with pytest.raises(TypeError, match="must be an array of uint8, got float64"):
        stream.push(picture / 255, 0.0)
    with pytest.raises(ValueError, match=r"RGB of one size, \[H, W, 3\], got \[48, 64\]"):
        stream.push(picture[..., 0], 0.0)
    stream.push(picture, 5.0)
    for time in (5.0, 4.0, math.nan):
        with pytest.raises(ValueError, match=r"each frame must be later than the one before, got .* after 5 s"):
            stream.push(picture, time)
    with pytest.raises(ValueError, match=r"RGB of one size, \[48, 64, 3\], got \[40, 64, 3\] \(frame 1"):
        stream.push(picture[8:], 6.0)
    assert len(stream.push(picture, 6.0)) == 1
    with pytest.raises(ValueError, match="fps must be positive"):
        AffectStream(inferencer, BOX, fps=0)
    for faces in ("nose", (1, 2, 3), (0, 0, 0, 9)):
        with pytest.raises(ValueError, match="faces must be a detector"):
            AffectStream(inferencer, faces)
    with pytest.raises(ValueError, match="person: must be"):
        AffectStream(inferencer, BOX, "smallest")
    with torch.no_grad():
        inferencer.model.head.regress.bias.fill_(math.nan)
    with pytest.raises(CheckpointError, match="predicts NaN or infinity"):
        stream.push(picture, 7.0)


def test_a_video_of_the_largest_face_is_watched_by_its_checkpoint(tmp_path):
    """By its path, with the usual detector in the loop, which finds nothing in noise: an honest nobody."""
    inferencer = make(tmp_path)
    video = write_video(tmp_path / "v.mp4", noise(8))
    stream = AffectStream(inferencer.checkpoint, "cascade", device="cpu")
    found = run(stream, iter_frames(video), probe_video(video).fps)
    assert all(not item.affect and not item.faces for item in found)


def two_who_come_and_go(number: int) -> list[list[float]]:
    """Of a film of 40 frames with a cut before the 25th."""
    if number >= 25:
        return [[20, 10, 40, 30]]
    first = [[6 + number / 4, 8, 24 + number / 4, 26]] if number not in range(8, 14) else []
    return first + ([[40, 20, 56, 36]] if number >= 10 else [])


@pytest.mark.parametrize(
    ("init", "live", "fps", "person", "boxed"),
    [
        ("last", True, 25.0, "all", False),
        ("last", False, 25.0, "all", False),
        ("last", False, None, "largest", False),
        ("central", True, 25.0, "largest", False),
        ("central", False, 25.0, "all", False),
        ("last", True, None, "largest", True),
    ],
)
def test_who_goes_on_from_a_state_says_what_she_would_have_said(tmp_path, init, live, fps, person, boxed):
    """Saved and read again, as plain tensors, in several places: at the start, in a gap, before a cut."""
    pictures = [np.uint8(one - 90) if number >= 25 else one for number, one in enumerate(calm(40))]
    inferencer = make(tmp_path, init, fps, clip_len=12, frame_interval=1)

    def new() -> AffectStream:
        faces = BOX if boxed else Looks(pictures, two_who_come_and_go)
        return AffectStream(inferencer, faces, person, live=live, fps=25.0)

    whole = run(new(), pictures)
    assert any(item.cut for item in whole) or boxed
    assert len({number for item in whole for number in item.affect}) > 1 or boxed or person == "largest"
    stops, stream, found = {0, 1, 11, 25, 34}, new(), []
    for number, picture in enumerate(pictures):
        if number in stops:
            file = io.BytesIO()
            torch.save(stream.state_dict(), file)
            file.seek(0)
            stream = new()
            stream.push(np.zeros((96, 128, 3), np.uint8), 0.0) if boxed else None  # what is there before is forgotten
            stream.load_state_dict(torch.load(file, weights_only=True))
        found += stream.push(picture, 7 + number / 25)
    found += stream.end()
    assert [item.frame.number for item in found] == list(range(40))
    for one, other in zip(found, whole, strict=True):
        assert (one.frame.time, one.cut, list(one.affect)) == (other.frame.time, other.cut, list(other.affect))
        assert np.array_equal(one.frame.picture, other.frame.picture)
        assert [face.person for face in one.faces] == [face.person for face in other.faces]
        for name in ("affect", "squares"):
            for number, values in getattr(one, name).items():
                assert np.array_equal(values, getattr(other, name)[number]), (one.frame.number, name)


def test_a_state_that_does_not_fit_is_refused_and_leaves_an_empty_stream(tmp_path):
    inferencer = make(tmp_path, "last", 25.0, clip_len=12)
    pictures = calm(12)
    stream = AffectStream(inferencer, BOX, fps=25.0)
    expected = run(stream, pictures)
    state = stream.state_dict()
    for number, picture in enumerate(pictures[:6]):
        stream.push(picture, number / 25)
    state = stream.state_dict()
    other = AffectStream(inferencer, BOX, live=False, fps=25.0)
    wrong = {
        "another kind": (other, state),
        "nothing": (stream, {}),
        "no network": (stream, {**state, "network": {}}),
        "no person": (stream, {**state, "watching": {**state["watching"], "now": {1: 99}}}),
        "text": (stream, {**state, "watching": "all of it"}),
    }
    for name, (to, given) in wrong.items():
        with pytest.raises(ValueError, match=r"AffectStream\.load_state_dict: the state is not of such a stream"):
            to.load_state_dict(given)
        again = run(to, pictures)
        if to is stream:
            assert all(np.array_equal(a.affect[1], b.affect[1]) for a, b in zip(again, expected, strict=True)), name
