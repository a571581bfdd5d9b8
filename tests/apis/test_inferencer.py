"""Sliding windows over a video equal the network on the same windows."""

import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from hocp_mm.apis import AffectInferencer, FaceTrack, inferencer
from hocp_mm.datasets import probe_video, video_times
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.datasets.transforms import LoadFaceClip, PackAffectInputs, SampleClip
from hocp_mm.datasets.transforms.sampling import window_starts
from hocp_mm.errors import CheckpointError, HOCPError, MissingDataError
from tests.material import odd_videos
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video

BOX = (14, 8, 26, 22)


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_network(tiny_config())


def make(tmp_path: Path, network: Any, **settings) -> AffectInferencer:
    checkpoint = write_checkpoint(tmp_path / "tiny.pth", tiny_config(**settings), network)
    return AffectInferencer(checkpoint, device="cpu")


def by_hand(network: Any, video: Path, frames: int, clip_len: int, stride: int, interval: int) -> np.ndarray:
    """Run the training pipeline and the network on each window, and average per frame."""
    x, y, w, h = BOX
    record = {
        "video": "v", "filename": str(video), "num_frames": frames, "fps": 25.0, "subject": "",
        "affect": np.zeros((frames, 2), np.float32), "valid": np.ones(frames, bool),
        "boxes": np.tile(np.float32([x, y, x + w, y + h]), (frames, 1)), "face_found": np.ones(frames, bool),
    }  # fmt: skip
    steps = [SampleClip(clip_len, interval, mode="window"), LoadFaceClip(32, margin=1.3, smooth=5), PackAffectInputs()]
    values: dict[int, list[np.ndarray]] = {i: [] for i in range(frames)}
    for start in window_starts(frames, clip_len, stride, interval):
        item: dict[str, Any] = {**record, "start": start}
        for step in steps:
            item = step(item)
        inputs = network.data_preprocessor({"inputs": [item["inputs"]], "data_samples": None})["inputs"]
        with torch.no_grad():
            pred = network(inputs, mode="tensor")[0].numpy()
        for row, frame in enumerate(item["data_samples"].frame_inds):
            if frame >= 0:
                values[frame].append(pred[row])
    return np.clip([np.mean(rows, axis=0) for rows in values.values()], -1, 1)


@pytest.mark.parametrize(
    ("frames", "clip_len", "stride", "interval"),
    [
        (21, 8, 3, 1),
        (21, 8, 8, 1),
        (21, 4, 1, 1),
        (8, 8, 4, 1),
        (5, 8, 4, 1),
        (1, 8, 4, 1),
        (23, 4, 2, 3),
        (7, 4, 4, 3),
    ],
)
def test_predictions_equal_the_network_on_the_same_windows(
    tmp_path: Path, network: Any, frames: int, clip_len: int, stride: int, interval: int
):
    video = write_video(tmp_path / "v.mp4", noise(frames))
    inferencer = make(tmp_path, network, clip_len=clip_len, stride=stride, frame_interval=interval)
    timeline = inferencer.predict(video, BOX, batch_size=3)
    expected = by_hand(network, video, frames, clip_len, stride, interval)
    assert np.ptp(expected, axis=0).min() > 0.02 or frames == 1  # the network is not blind to its input
    np.testing.assert_allclose(timeline.pred, expected, atol=1e-5)
    assert timeline.frames.tolist() == list(range(frames))
    assert (timeline.video, timeline.fps) == ("v", 25)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.mp4", noise(21))


def test_csv_has_each_frame_once(tmp_path: Path, network: Any, video: Path):
    path = make(tmp_path, network).predict(video, BOX).to_csv(tmp_path / "v.csv")
    assert [line.split(",")[0] for line in path.read_text().splitlines()[1:]] == [str(i) for i in range(21)]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batch_size_does_not_matter(tmp_path: Path, network: Any, video: Path, batch_size: int):
    inferencer = make(tmp_path, network)
    pred = inferencer.predict(video, BOX, batch_size=batch_size).pred
    np.testing.assert_allclose(pred, inferencer.predict(video, BOX, batch_size=4).pred, atol=1e-5)


def test_stride_of_the_call_replaces_that_of_the_config(tmp_path: Path, network: Any, video: Path):
    inferencer = make(tmp_path, network)
    expected = by_hand(network, video, 21, 8, 1, 1)
    np.testing.assert_allclose(inferencer.predict(video, BOX, stride=1).pred, expected, atol=1e-5)
    with pytest.raises(ValueError, match="9 > 8"):
        inferencer.predict(video, BOX, stride=9)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        inferencer.predict(video, BOX, batch_size=0)


def test_flip_makes_a_mirrored_video_equal(tmp_path: Path, network: Any):
    frames = noise(9)
    left = write_video(tmp_path / "l.avi", frames, codec="ffv1")
    right = write_video(tmp_path / "r.avi", [frame[:, ::-1].copy() for frame in frames], codec="ffv1")
    inferencer = make(tmp_path, network)
    mirrored = (64 - BOX[0] - BOX[2], *BOX[1:])
    plain = [inferencer.predict(v, b).pred for v, b in ((left, BOX), (right, mirrored))]
    flipped = [inferencer.predict(v, b, flip=True).pred for v, b in ((left, BOX), (right, mirrored))]
    # Chroma of a 4:2:0 video is not mirrored exactly.
    assert np.abs(flipped[0] - flipped[1]).max() < 0.2 * np.abs(plain[0] - plain[1]).max()


def test_a_checkpoint_remembers_that_its_network_is_tested_with_flip(tmp_path: Path, network: Any, video: Path):
    cfg = tiny_config()
    cfg.model.test_cfg = {"flip": True}
    inferencer = AffectInferencer(write_checkpoint(tmp_path / "flip.pth", cfg, network), device="cpu")
    passes: list[int] = []
    inferencer.model.backbone.register_forward_hook(lambda *_: passes.append(1))
    recorded = inferencer.predict(video, BOX, batch_size=100).pred
    assert len(passes) == 2
    plain = make(tmp_path, network)
    np.testing.assert_allclose(recorded, plain.predict(video, BOX, flip=True).pred, atol=1e-6)
    assert np.abs(recorded - plain.predict(video, BOX).pred).max() > 0.01
    inferencer.predict(video, BOX, batch_size=100, flip=True)
    assert len(passes) == 4  # asked for twice, done once


def test_a_track_is_taken_as_it_is_and_reaches_the_timeline(tmp_path: Path, network: Any, video: Path):
    x, y, w, h = BOX
    found = np.arange(21) % 2 == 0
    track = FaceTrack(np.tile(np.float32([x, y, x + w, y + h]), (21, 1)), found)
    inferencer = make(tmp_path, network)
    timeline = inferencer.predict(video, track)
    assert np.array_equal(timeline.face_found, found)
    assert np.array_equal(timeline.pred, inferencer.predict(video, BOX).pred)
    with pytest.raises(ValueError, match="got 20 rows for 21 frames"):
        inferencer.predict(video, FaceTrack(None, found[:20]))


def clips_of(inferencer: AffectInferencer) -> list[np.ndarray]:
    """Let a network see nothing, and return the list that its clips will be in."""
    seen: list[np.ndarray] = []
    inferencer.predict_clips = lambda clips, *rest: seen.extend(clips) or np.zeros((len(clips), 8, 2), np.float32)
    return seen


def test_whole_frames_are_cropped_as_in_training(tmp_path: Path, network: Any, video: Path):
    inferencer = make(tmp_path, network)
    record = {"frame_inds": np.arange(8), "num_frames": 21, "boxes": None, "filename": str(video)}
    seen = clips_of(inferencer)
    inferencer.predict(video, "frame")
    assert np.array_equal(seen[0], LoadFaceClip(32)(record)["imgs"])


def test_progress_ends_with_the_video(tmp_path: Path, network: Any, video: Path):
    calls = []
    make(tmp_path, network).predict(video, BOX, batch_size=2, progress=lambda *state: calls.append(state))
    assert calls[-1] == ("reading affect", 21, 21)
    assert calls == sorted(calls)


def test_pixels_that_are_not_square_are_made_so_as_in_training(tmp_path: Path, network: Any):
    """The same picture, once squeezed to pixels of 2:1 in the file: faces of natural width enter the network."""
    file = odd_videos.write_video(tmp_path / "wide.mp4", "mpeg4", 21, pixel_aspect=Fraction(2))
    inferencer = make(tmp_path, network)
    boxes = np.tile(np.float32([10, 10, 50, 90]), (21, 1))
    record = {"frame_inds": np.arange(8), "num_frames": 21, "boxes": boxes, "filename": str(file), "pixel_aspect": 2.0}
    rule = inferencer.rule
    loaded = LoadFaceClip(rule.size, rule.margin, rule.smooth)(record)["imgs"]
    assert probe_video(file).pixel_aspect == 2
    seen = clips_of(inferencer)
    inferencer.predict(file, FaceTrack(boxes, np.ones(21, bool)))
    assert np.array_equal(seen[0], loaded)


def test_another_architecture_is_refused_with_its_keys(tmp_path: Path, network: Any):
    state = network.state_dict()
    state["head.other"] = state.pop("head.regress.bias")
    torch.save({"meta": {"cfg": tiny_config().pretty_text}, "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"head\.regress\.bias.*head\.other"):
        AffectInferencer(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_a_gpu_opens_on_a_machine_without(
    tmp_path: Path, network: Any, video: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
):
    file = tmp_path / "gpu.pth"
    content = torch.load(write_checkpoint(tmp_path / "tiny.pth", tiny_config(), network), weights_only=False)
    with monkeypatch.context() as patch:  # the names that PyTorch gives to storages of the second GPU
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA device"):
            torch.load(file)
    found = AffectInferencer(file, device="cpu").predict(video, BOX)
    assert np.array_equal(found.pred, make(tmp_path, network).predict(video, BOX).pred)


def test_a_checkpoint_without_config_needs_one(tmp_path: Path, network: Any, video: Path):
    path = tmp_path / "bare.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"bare\.pth: the checkpoint records no config.*: --config FILE"):
        AffectInferencer(path)
    tiny_config().dump(tmp_path / "c.py")
    given = AffectInferencer(path, tmp_path / "c.py", "cpu").predict(video, BOX)
    assert np.array_equal(given.pred, make(tmp_path, network).predict(video, BOX).pred)
    with pytest.raises(MissingDataError, match=r"none\.py"):
        AffectInferencer(path, tmp_path / "none.py")


def test_a_diverged_network_is_named(tmp_path: Path, network: Any, video: Path):
    inferencer = make(tmp_path, network)
    with torch.no_grad():
        inferencer.model.head.regress.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"tiny\.pth: the network predicts NaN"):
        inferencer.predict(video, BOX)


def test_a_device_that_does_not_exist_is_named(tmp_path: Path, network: Any):
    checkpoint = write_checkpoint(tmp_path / "tiny.pth", tiny_config(), network)
    with pytest.raises(HOCPError, match="device: must be one that torch can use here, got 'abacus'"):
        AffectInferencer(checkpoint, device="abacus")


def test_a_detector_that_was_made_tells_people_apart_as_its_name_does(tmp_path: Path, network: Any, video: Path):
    def detector(frame: np.ndarray) -> Detections:
        return Detections(np.float32([[14, 8, 40, 30]]), np.float32([0.9]))

    assert make(tmp_path, network).predict(video, detector).person is not None


def test_stamps_rounded_to_milliseconds_are_those_of_an_even_rate(tmp_path: Path, network: Any):
    """Each frame has the values of its own moment, as in a test, not a mean with its neighbour's."""
    file = tmp_path / "v.mkv"
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in noise(40, (64, 48)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    info = probe_video(file)
    assert (info.fps, info.variable) == (30, False)
    assert np.ptp(np.diff(video_times(file, info))) > 5e-4
    cfg = tiny_config()
    cfg.test_dataloader.dataset.pipeline[0].update(fps=30.0)
    inferencer = AffectInferencer(write_checkpoint(tmp_path / "tiny.pth", cfg, network), device="cpu")
    assert inferencer.rule.fps == 30
    plain = make(tmp_path, network)
    assert plain.rule.fps is None
    np.testing.assert_allclose(inferencer.predict(file, "frame").pred, plain.predict(file, "frame").pred, atol=1e-6)


@pytest.mark.parametrize("kind", ["error", "left"])
def test_no_thread_outlives_the_frames(tmp_path: Path, network: Any, kind: str):
    """Not even while a notebook keeps the error and all that hangs on it."""
    file = write_video(tmp_path / "v.mp4", [np.full((48, 64, 3), 90, np.uint8)] * 200)
    inferencer = make(tmp_path, network)
    inferencer.predict_clips = lambda clips, *rest: 1 // (kind != "error") + np.zeros((len(clips), 8, 2), np.float32)
    before = threading.active_count()
    frames = inferencer.watch(file, lambda frame: Detections(np.float32([[14, 8, 40, 30]]), np.float32([0.9])))
    if kind == "error":
        with pytest.raises(ZeroDivisionError) as kept:
            list(frames)
        assert kept.tb is not None
    else:
        assert next(frames).frame.number == 0
        frames.close()
    assert threading.active_count() == before


def test_a_pause_does_not_change_what_was_before(tmp_path: Path, network: Any):
    """The mean rate of a film that stands still for a minute says nothing of its motion, nor of how to smooth boxes."""
    pictures = noise(50, (64, 48))
    files = []
    for name, count in (("whole", 50), ("part", 25)):
        stamps = [40 * n + 60_000 * (n >= 25) for n in range(count)]
        options: dict[str, Any] = {"draw": pictures.__getitem__, "milliseconds": stamps}
        files.append(odd_videos.write_video(tmp_path / f"{name}.mkv", "mpeg4", count, **options))
    assert probe_video(files[0]).fps < 1
    cfg = tiny_config()
    cfg.test_dataloader.dataset.pipeline[0].update(fps=25.0)
    inferencer = AffectInferencer(write_checkpoint(tmp_path / "tiny.pth", cfg, network), device="cpu")
    jitter = np.random.default_rng(0).uniform(-6, 6, (50, 1))
    boxes = np.float32([14, 8, 40, 30]) + jitter.astype(np.float32)
    whole, part = (
        inferencer.predict(file, FaceTrack(boxes[:count], np.ones(count, bool)))
        for file, count in zip(files, (50, 25), strict=True)
    )
    assert whole.times is not None
    np.testing.assert_allclose(whole.pred[:25], part.pred, atol=1e-5)


@pytest.mark.parametrize("fps", [None, 100.0])
def test_names_of_videos_cannot_give_commands_to_the_terminal(tmp_path: Path, network: Any, fps, monkeypatch):
    """In what is told of a network without a rate, and of a video that is slower than training."""
    video = write_video(tmp_path / "v.mp4", noise(5)).rename(tmp_path / "a\x1b[31m\nb.mp4")
    cfg = tiny_config()
    if fps is not None:
        cfg.test_dataloader.dataset.pipeline[0].fps = fps
        cfg.test_dataloader.dataset.pipeline[0].pop("frame_interval", None)
    told = []
    monkeypatch.setattr(inferencer, "print_log", lambda text, **_: told.append(text))
    AffectInferencer(write_checkpoint(tmp_path / "tiny.pth", cfg, network), device="cpu").predict(video, "frame")
    assert [("a\\x1b[31m\\nb.mp4" in text, text.isprintable()) for text in told] == [(True, True)]
