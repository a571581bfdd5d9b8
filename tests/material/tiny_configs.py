"""Tiny videos and a tiny network for the tests of the path from video to timeline."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from mmengine.config import Config
from skimage import data

from hocp_mm.registry import MODELS

# Inner landmarks of skimage's portrait, marked by hand: (x1, y1, x2, y2).
PORTRAIT_BOX = np.array([190.0, 89.0, 260.0, 148.0])


def write_video(path: Path, frames: Iterable[np.ndarray], fps: Any = 25, codec: str = "libx264") -> Path:
    """Write RGB frames at high quality."""
    with av.open(str(path), "w") as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps), options={"crf": "12"})
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], Fraction, str]:
    """Return frames, rate and codec."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [f.to_ndarray(format="rgb24") for f in container.decode(stream)], stream.average_rate, stream.codec.name


def portrait(shift: tuple[float, float], scale: float = 0.8, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Return skimage's portrait moved to a place in a small frame."""
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], dtype=np.float32)
    return cv2.warpAffine(data.astronaut(), matrix, size)


def portrait_box(shift: tuple[float, float], scale: float = 0.8) -> np.ndarray:
    """Return where the inner landmarks of that portrait are."""
    return PORTRAIT_BOX * scale + np.array([*shift, *shift])


def noise(count: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> list[np.ndarray]:
    """Return frames that all differ and show nothing."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, size=(count, 6, 8, 3), dtype=np.uint8)
    return [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in small]


def tiny_config(clip_len: int = 8, stride: int = 4, frame_interval: int = 1, size: int = 32) -> Config:
    """Return the config of a network of this package that takes a second to build."""
    sample = {"type": "hocp_mm.SampleClip", "clip_len": clip_len, "frame_interval": frame_interval, "mode": "window"}
    load = {"type": "hocp_mm.LoadFaceClip", "size": size, "margin": 1.3, "smooth": 5}
    windows = {"clip_len": clip_len, "stride": stride, "frame_interval": frame_interval}
    dataset = {
        "type": "hocp_mm.SEWADataset",
        "data_root": "nowhere",
        "windows": windows,
        "labels": "AV",
        "label_range": (-1, 1),
    }
    return Config(
        {
            "default_scope": "hocp_mm",
            "model": {
                "type": "hocp_mm.AffectRecognizer",
                "backbone": {
                    "type": "hocp_mm.TimmHOCPBackbone",
                    "model_name": "test_resnet",
                    "pretrained": True,
                    "rank": 4,
                },
                "head": {"type": "hocp_mm.AffectHead", "in_channels": 96},
            },
            "test_dataloader": {
                "batch_size": 1,
                "dataset": dict(**dataset, pipeline=[sample, load, {"type": "hocp_mm.PackAffectInputs"}]),
            },
        }
    )


def tiny_network(cfg: Config) -> Any:
    """Return a network whose predictions depend on the pixels and on the neighbouring frames."""
    torch.manual_seed(0)
    model = Config(cfg.to_dict()).model
    model.backbone.pretrained = False
    network = MODELS.build(model)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("factors.t"):
                parameter.normal_(std=0.6)
        network.head.regress.weight.normal_(std=1.0)
        # Centre and scale the predictions, so that the bounds [-1, 1] do not hide differences.
        clips = [torch.from_numpy(np.stack(noise(8, (32, 32), seed))).permute(3, 0, 1, 2) for seed in range(4)]
        network.eval()
        pred = network(network.data_preprocessor({"inputs": clips})["inputs"], mode="tensor").flatten(0, 1)
        scale = 0.3 / pred.std(0)
        network.head.regress.weight.mul_(scale[:, None])
        network.head.regress.bias.copy_(-pred.mean(0) * scale)
    return network


def write_checkpoint(path: Path, cfg: Config, network: Any) -> Path:
    """Save what mmengine's Runner saves, as far as inference reads it."""
    torch.save({"meta": {"cfg": cfg.pretty_text, "epoch": 1}, "state_dict": network.state_dict()}, path)
    return path
