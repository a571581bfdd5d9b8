"""What a video costs: every stage of the pass over it, and the whole command."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

from benchmarks.markdown import table
from benchmarks.timing import interleaved
from hocp_mm.apis import AffectInferencer
from hocp_mm.datasets import iter_frames, make_detector
from hocp_mm.datasets.faces.crops import crop_frame
from hocp_mm.datasets.faces.following import Frame, follow_faces
from hocp_mm.datasets.media.cuts import CutFinder
from hocp_mm.launch import build_model, load_config
from hocp_mm.visualization import FaceMark, OverlayWriter

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/hocp_sewa_demo.py"
SIZE, FPS = (640, 360), 25
LONG, SHORT = 472, 72
COMMANDS = {
    f"{LONG} frames: detection, CSV, overlay": (LONG, ()),
    f"{SHORT} frames: detection, CSV, overlay": (SHORT, ()),
    f"{LONG} frames: box given, CSV alone": (LONG, ("--box", "250,60,120,110", "--no-video")),
}
MINUTES = (1, 60)
_STAGE_FRAMES = 120


def measure(seconds: float) -> dict[str, Any]:
    """Time the stages of a pass in turns, then whole commands in turns, and compare the memory of two lengths.

    Args:
        seconds: Time for the stages, about; commands run three times each.

    Returns:
        ``stages``: milliseconds per frame; ``commands``: seconds; ``memory``: largest resident megabytes by minutes.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        videos = {count: write_video(folder / f"{count}.mp4", count) for count in (LONG, SHORT)}
        checkpoint = write_checkpoint(folder / "demo.pth")
        commands: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for _ in range(3):
            for name, (count, options) in COMMANDS.items():
                commands[name].append(_run(videos[count], checkpoint, folder / "out", options)[0])
        stages = measure_stages(videos[LONG], checkpoint, folder / "overlay.mp4", seconds)
        memory = {}
        for minutes in MINUTES:
            video = write_video(folder / f"{minutes}min.mp4", minutes * 60 * FPS)
            memory[str(minutes)] = _run(video, checkpoint, folder / "out", ())[1]
        return {"stages": stages, "commands": {k: float(np.median(v)) for k, v in commands.items()}, "memory": memory}


def talking_head(numbers: Iterable[int], size: tuple[int, int] = SIZE) -> Iterator[NDArray[np.uint8]]:
    """Yield frames of a portrait that moves and mouths a little."""
    portrait = data.astronaut()
    for number in numbers:
        x, y = 40 + 12 * np.sin(number / 20), -20 + 6 * np.sin(number / 13)
        matrix = np.array([[1.1, 0, x], [0, 1.1 + 0.01 * np.sin(number / 3), y]], dtype=np.float32)
        yield np.asarray(cv2.warpAffine(portrait, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def write_video(path: Path, count: int) -> Path:
    """Write a talking head, 640x360 at 25 frames a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in talking_head(range(count)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_checkpoint(path: Path) -> Path:
    """Write the demo's network as it is before training."""
    cfg = load_config(ROOT / CONFIG)
    torch.save({"meta": {"cfg": cfg.pretty_text}, "state_dict": build_model(cfg).state_dict()}, path)
    return path


def measure_stages(video: Path, checkpoint: Path, overlay: Path, seconds: float) -> dict[str, float]:
    """Return milliseconds per frame of what a pass does, each on frames that the stage before left in memory."""
    pictures = list(islice(iter_frames(video), _STAGE_FRAMES))
    frames = [Frame(number, number / FPS, picture) for number, picture in enumerate(pictures)]
    detector = make_detector("auto")
    followed = list(follow_faces(iter(frames), detector, 0.64))
    boxes = [item.faces[0].box if item.faces else np.float32([250, 60, 370, 170]) for item in followed]
    squares = np.array([[*(box[:2] - 20), *(box[:2] + 160)] for box in boxes], dtype=np.float32)
    inferencer = AffectInferencer(checkpoint, device="cpu")
    crops = [crop_frame(p, squares, n, 1.0, inferencer.rule.size) for n, p in enumerate(pictures)]
    clips = [np.stack(crops[start : start + 16]) for start in range(0, _STAGE_FRAMES - 15, 8)]

    def draw() -> None:
        width, height = SIZE
        with OverlayWriter(overlay, width=width, height=height, fps=FPS) as writer:
            for frame, box in zip(frames, boxes, strict=True):
                writer.write(frame.picture, frame.time, [FaceMark(box, (0.3, -0.2))])

    stages: dict[str, Callable[[], object]] = {
        "decoding": lambda: _drain(islice(iter_frames(video), _STAGE_FRAMES)),
        "cuts": lambda: _drain(map(CutFinder().push, pictures)),
        "cuts, looks and people": lambda: _drain(follow_faces(iter(frames), detector, 0.64)),
        "crops": lambda: [crop_frame(p, squares, n, 1.0, inferencer.rule.size) for n, p in enumerate(pictures)],
        "network": lambda: inferencer.predict_clips(clips, flip=False, both_views=False),
        "overlay": draw,
    }
    times = interleaved(stages, seconds=seconds)
    return {name: milliseconds / _STAGE_FRAMES for name, milliseconds in times.items()}


def _drain(items: Iterator[Any]) -> None:
    for _ in items:
        pass


def _run(video: Path, checkpoint: Path, out: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """Return seconds and largest resident megabytes of a command."""
    command = [sys.executable, ROOT / "tools/demo.py", video, "--checkpoint", checkpoint, "--out", out, "--overwrite"]
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen([*map(str, command), *options], stdout=told, stderr=told)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            told.seek(0)
            raise RuntimeError(f"demo.py ended with status {status}: {told.read()[-500:]}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def video_lines(results: dict[str, Any]) -> list[str]:
    """Return the section of the page."""
    rate = {name: f"{1e3 / cost:.0f}" for name, cost in results["stages"].items()}
    return [
        "## Video: one face, 640 x 360, `tools/demo.py`",
        "",
        "Stages: milliseconds per frame and frames per second, each alone; in the command decoding and looking run in",
        "a thread beside the network, and encoding in another.",
        "",
        *table(["stage", "ms", "frames/s"], [[n, f"{c:.2f}", rate[n]] for n, c in results["stages"].items()]),
        "",
        *table(["whole command", "s"], [[name, f"{cost:.1f}"] for name, cost in results["commands"].items()]),
        "",
        *table(["minutes of video", "largest memory, MB"], [[n, f"{m:.0f}"] for n, m in results["memory"].items()]),
    ]
