"""What a face costs with what others take: their own programs, beside ours, from a crop to valence and arousal.

    pip install --no-deps emotiefflib && pip install py-feat

Their weights lie on the internet, and no number here depends on them: each program reads a file that is written here in
its form, with random weights. Finding the face is left out, as everybody may do that alike; what it costs here stands
in the section on video.
"""

import copy
import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from benchmarks.markdown import table
from benchmarks.streaming import SIZE, write_streamed
from benchmarks.timing import interleaved
from benchmarks.videos import talking_head
from hocp_mm.apis import AffectInferencer, AffectStream

FRAMES, STRIDE = 16, 8
OURS, STREAM, DENSE = "ours, windows", "ours, a stream", "ResNet-18, dense"
EMOTIEFFLIB, EMOTIEFFLIB_ONNX = "EmotiEffLib, EfficientNet-B0", "EmotiEffLib, the same in ONNX Runtime"
PY_FEAT = "py-feat, Detectorv2's network"
_PACKAGES = {EMOTIEFFLIB: "emotiefflib", EMOTIEFFLIB_ONNX: "emotiefflib", PY_FEAT: "feat"}
_KNOWN = "enet_b0_8_va_mtl"

Crops = NDArray[np.uint8]
"""``[n, side, side, 3]``, RGB."""


def measure(seconds: float) -> dict[str, Any]:
    """Time all programs that are installed in turns.

    Args:
        seconds: For a row of contenders, about.

    Returns:
        ``rows``: pixels, parameters, milliseconds of a frame when they come one by one and of each of sixteen at once;
        ``absent``: programs that are not installed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # py-feat would make it one
    portrait = list(islice(talking_head(count(), (640, 480)), FRAMES))
    contenders: dict[str, tuple[int, int, Callable[[Crops], object]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        makers = {OURS: _ours, STREAM: _stream, DENSE: _dense, EMOTIEFFLIB: partial(_emotiefflib, "torch")}
        makers |= {EMOTIEFFLIB_ONNX: partial(_emotiefflib, "onnx"), PY_FEAT: _py_feat}
        absent = [name for name in makers if name in _PACKAGES and find_spec(_PACKAGES[name]) is None]
        for name, make in makers.items():
            if name not in absent:
                contenders[name] = make(folder)
        crops = {side: _crops(portrait, side) for side, _, _ in contenders.values()}
        alone = {name: partial(say, crops[side][:1]) for name, (side, _, say) in contenders.items() if name != OURS}
        # A window is run again for every `STRIDE` frames, so each frame is in two of them.
        many = {name: partial(say, crops[side]) for name, (side, _, say) in contenders.items()}
        live = interleaved(alone, rounds=30, seconds=seconds, twice=True)
        together = interleaved(many, rounds=30, seconds=seconds)
    per = {name: STRIDE if name == OURS else FRAMES for name in many}
    rows = [
        {"name": name, "pixels": side, "parameters": size, "live": live.get(name), "many": together[name] / per[name]}
        for name, (side, size, _) in contenders.items()
    ]
    return {"rows": rows, "absent": absent}


def _crops(pictures: list[NDArray[np.uint8]], side: int) -> Crops:
    import cv2

    return np.stack([cv2.resize(picture[60:300, 220:460], (side, side)) for picture in pictures])


def _size(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def _ours(folder: Path) -> tuple[int, int, Callable[[Crops], object]]:
    inferencer = AffectInferencer(write_streamed(folder / "ours.pth"), device="cpu")
    return SIZE, _size(inferencer.model), lambda crops: inferencer.predict_clips([crops], flip=False, both_views=False)


def _stream(folder: Path) -> tuple[int, int, Callable[[Crops], object]]:
    stream = AffectStream(write_streamed(folder / "stream.pth"), device="cpu")

    def say(crops: Crops) -> object:
        clip = stream._normalised(np.ascontiguousarray(crops.transpose(3, 0, 1, 2)))
        return stream.network.push({"me": clip})

    return SIZE, _size(stream.inferencer.model), say


def _dense(folder: Path) -> tuple[int, int, Callable[[Crops], object]]:
    network = timm.create_model("resnet18", num_classes=2).eval().to(memory_format=torch.channels_last)
    mean, std = torch.tensor([123.7, 116.3, 103.5]), torch.tensor([58.4, 57.1, 57.4])

    @torch.inference_mode()
    def say(crops: Crops) -> object:
        return network(((torch.from_numpy(crops) - mean) / std).permute(0, 3, 1, 2)).numpy()

    return SIZE, _size(network), say


def _emotiefflib(engine: str, folder: Path) -> tuple[int, int, Callable[[Crops], object]]:
    """Return its recogniser of valence, arousal and expressions, which reads its file from the user's home."""
    network: Any = timm.create_model("tf_efficientnet_b0", num_classes=10).eval()
    torch.nn.init.normal_(network.classifier.bias)  # of several tensors of zeros, the exporter keeps one
    home = folder / ".emotiefflib"
    home.mkdir(exist_ok=True)
    if engine == "torch":
        torch.save(network, home / f"{_KNOWN}.pt")
    else:
        # The exporter that its authors used: the last node must be a Gemm.
        names = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": {"input": {0: "batch"}}}
        torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), home / f"{_KNOWN}.onnx", dynamo=False, **names)
    with _home(folder):
        from emotiefflib.facial_analysis import (  # pyright: ignore[reportMissingImports]
            EmotiEffLibRecognizer,
        )

        recogniser = EmotiEffLibRecognizer(engine=engine, model_name=_KNOWN, device="cpu")
    return 224, _size(network), lambda crops: recogniser.predict_emotions(list(crops))


def _py_feat(folder: Path) -> tuple[int, int, Callable[[Crops], object]]:
    """Return the network that its detector runs on every face: expressions, valence, arousal, action units, mesh."""
    from feat.multitask import inference  # pyright: ignore[reportMissingImports]
    from feat.multitask.model_v2 import MEGraphAUv2, ModelV2Config  # pyright: ignore[reportMissingImports]

    file = folder / "multitask.pt"
    network = MEGraphAUv2(ModelV2Config(pretrained=False))
    torch.save({"config": {}, "model": network.state_dict()}, file)
    model = inference.MultitaskModel(device="cpu", weights_path=file)
    return 256, _size(network), lambda crops: model(torch.from_numpy(crops).permute(0, 3, 1, 2) / 255)


@contextmanager
def _home(folder: Path) -> Any:
    before = copy.copy(os.environ.get("HOME"))
    os.environ["HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("HOME")
        if before is not None:
            os.environ["HOME"] = before


def peers_lines(results: dict[str, Any]) -> list[str]:
    """Return the section of the page."""
    by_name = {row["name"]: row for row in results["rows"]}
    body = []
    for row in results["rows"]:
        live = "" if row["live"] is None else f"{row['live']:.1f}"
        ratios = [
            "" if value is None else f"{value / by_name[own][key]:.1f}"
            for key, own, value in (("live", STREAM, row["live"]), ("many", OURS, row["many"]))
        ]
        body.append(
            [row["name"], str(row["pixels"]), f"{row['parameters'] / 1e6:.1f} M", live, f"{row['many']:.1f}", *ratios]
        )
    head = ["", "pixels", "parameters", "one by one", f"{FRAMES} at once", "over our stream", "over our windows"]
    absent = [f"Not installed, so not timed: {', '.join(results['absent'])}.", ""] if results["absent"] else []
    return [
        "## Beside others: from the crop of one face to valence and arousal",
        "",
        "Milliseconds of a frame, with what each does to the picture before its network; random weights everywhere.",
        f"Ours is the network of the video recipes (ResNet-18, {SIZE} pixels, motion components), which sees a frame",
        f"in two windows of {FRAMES}, or once in a stream. The others see every frame alone, and say expressions,",
        "too; py-feat's network also says action units, gaze and a mesh.",
        "",
        *absent,
        *table(head, body),
    ]
