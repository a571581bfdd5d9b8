"""What a stream costs: a frame against a window run again, against its history, and the whole way from a camera."""

import copy
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.markdown import table
from benchmarks.networks import MOTION
from benchmarks.timing import Step, interleaved
from benchmarks.videos import FPS, ROOT, talking_head
from hocp_mm.apis import AffectStream
from hocp_mm.launch import build_model, load_config
from hocp_mm.models import FrameStream, TimmHOCPBackbone

SIZE, WINDOW, PEOPLE = 112, 16, 4
PICTURE = (640, 480)
NETWORKS: dict[str, dict[str, Any]] = {
    "causal": {"temporal_init": "last"},
    "causal, motion": {"temporal_init": "last", "motion": MOTION},
    "central": {"temporal_init": "central"},
}
STREAM, AGAIN, MANY = "a frame of a stream", f"a window of {WINDOW} again", f"a frame of {PEOPLE} faces"
HISTORY = 4096
"""Frames; cost and memory are told at powers of two up to it."""


def measure(seconds: float, history: int = HISTORY, pictures: int = 250) -> dict[str, Any]:
    """Time contenders in turns, one long stream, and all that happens to a frame of a camera.

    Args:
        seconds: Time for a row of contenders, about.
        history: Frames of the long stream.
        pictures: Frames of the camera.

    Returns:
        ``networks``: delay in frames and milliseconds by contender, with one thread and with all; ``history``: frames
        before, milliseconds of a frame and of a window, bytes that are kept; ``camera``: milliseconds of a frame.
    """
    usual, rows = torch.get_num_threads(), []
    for threads in sorted({1, usual}):
        torch.set_num_threads(threads)
        try:
            for name, options in NETWORKS.items():
                network: Any = TimmHOCPBackbone("resnet18", rank="x1", **options).eval()
                stream = FrameStream(network, SIZE)
                times = interleaved(_contenders(network, stream), rounds=100, seconds=seconds, twice=True)
                rows.append({"network": name, "threads": threads, "delay": stream.delay, "times": times})
        finally:
            torch.set_num_threads(usual)
    return {"networks": rows, "history": _history(history), "camera": _camera(pictures)}


def _contenders(network: Any, stream: FrameStream) -> dict[str, Step]:
    frame, clip = torch.randn(3, 1, SIZE, SIZE), torch.randn(1, 3, WINDOW, SIZE, SIZE)
    many = FrameStream(network, SIZE)

    @torch.inference_mode()
    def again() -> Tensor:
        return network(clip)

    return {
        STREAM: lambda: stream.push({0: frame}),
        MANY: lambda: many.push(dict.fromkeys(range(PEOPLE), frame)),
        AGAIN: again,
    }


def _history(frames: int) -> list[dict[str, float]]:
    """Return what a frame costs after so many others, the median of the last 64, and what is kept then."""
    network: Any = TimmHOCPBackbone("resnet18", rank="x1", temporal_init="last").eval()
    stream, rows, costs = FrameStream(network, SIZE), [], []
    steps = _contenders(network, stream)
    for number in range(1, frames + 1):
        begin = time.perf_counter()
        steps[STREAM]()
        costs.append(1e3 * (time.perf_counter() - begin))
        if number >= 8 and number & (number - 1) == 0:  # a power of two
            memory = stream.state_dict()["streams"][0][0]["memory"].values()
            kept = sum(frame.untyped_storage().nbytes() for own in memory for frame in own)
            window = interleaved({AGAIN: steps[AGAIN]}, rounds=3)[AGAIN]
            recent = statistics.median(costs[number // 2 :][-64:])
            rows.append({"frames": number, "stream": recent, "window": window, "bytes": kept})
    return rows


def _camera(pictures: int) -> dict[str, float]:
    """Return milliseconds from a frame of 640 x 480 to what is said of it, and its share of a second at 25 frames."""
    with tempfile.TemporaryDirectory() as place:
        stream = AffectStream(write_streamed(Path(place) / "stream.pth"), device="cpu")
    frames = (picture for _, picture in zip(range(pictures), talking_head(count(), PICTURE), strict=False))
    found = list(stream.watch((number / FPS, picture) for number, picture in enumerate(frames)))
    latency = np.array([1e3 * item.latency for item in found if item.affect])
    if len(latency) < pictures // 2:
        raise RuntimeError(f"streaming: a face must be found in most of {pictures} frames, got {len(latency)}.")
    low, median, high = np.percentile(latency[len(latency) // 10 :], (5, 50, 95)).tolist()
    return {"pictures": pictures, "low": low, "median": median, "high": high, "mean": float(latency.mean())}


def write_streamed(path: Path) -> Path:
    """Write the network of the video recipe, causal and at 112 pixels, as it is before training."""
    cfg = copy.deepcopy(load_config(ROOT / "configs/hocp_sewa.py"))
    cfg.model.backbone.update(temporal_init="last")
    for step in cfg.test_dataloader.dataset.pipeline:
        if "size" in step:
            step["size"] = SIZE
    torch.save({"meta": {"cfg": cfg.pretty_text}, "state_dict": build_model(cfg).state_dict()}, path)
    return path


def streaming_lines(results: dict[str, Any], name: str) -> list[str]:
    """Return the section of the page."""
    rows = [
        [r["network"], str(r["threads"]), str(r["delay"]), *(f"{r['times'][n]:.1f}" for n in (STREAM, MANY, AGAIN)),
         f"**{r['times'][AGAIN] / r['times'][STREAM]:.1f}**"]
        for r in results["networks"]
    ]  # fmt: skip
    history, camera = results["history"], results["camera"]
    return [
        f"## Streams: ResNet-18 at R = C, {SIZE} x {SIZE}",
        "",
        "Milliseconds of a new frame: in a stream, which keeps the components of the last frames, and by the last",
        f"{WINDOW} frames run again. *delay*: frames that a network which looks ahead must wait for.",
        "",
        *table(["network", "threads", "delay", STREAM, MANY, AGAIN, "window / stream"], rows),
        "",
        f"![cost of a frame against its history]({name}-streaming.png)",
        "",
        f"After {history[0]['frames']} to {history[-1]['frames']} frames the causal network keeps "
        f"{history[-1]['bytes'] / 1e6:.1f} MB, no more and no less.",
        "",
        f"`AffectStream` on a talking head of {PICTURE[0]} x {PICTURE[1]} (looks, cuts, crops, a network with motion",
        f"components): {camera['median']:.1f} ms a frame; 5 % take less than {camera['low']:.1f}, 5 % more than "
        f"{camera['high']:.1f}; the mean,",
        f"with the looks, is {camera['mean']:.1f}.",
    ]


def plot_streaming(rows: list[dict[str, float]], path: Path) -> None:
    """Draw what a frame costs, and what is kept, against the frames before it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    frames = [row["frames"] for row in rows]
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for key, label in (("window", AGAIN), ("stream", STREAM)):
        axis.plot(frames, [row[key] for row in rows], "o-", label=label)
    axis.set(xscale="log", yscale="log", xlabel="frames of the stream so far", ylabel="milliseconds for a frame")
    memory = axis.twinx()
    memory.plot(frames, [row["bytes"] / 1e6 for row in rows], "k--", label="kept")
    memory.set(ylabel="MB kept", ylim=(0, 2 * max(row["bytes"] for row in rows) / 1e6))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
