"""What an exported network costs in every form, beside the network itself."""

import tempfile
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.markdown import table
from benchmarks.streaming import SIZE, WINDOW, write_streamed
from benchmarks.timing import Step, interleaved
from benchmarks.videos import FPS, talking_head, write_video
from hocp_mm.apis import AffectInferencer
from hocp_mm.apis.exporting import ENDS, Calibration, Exported, Exporter
from hocp_mm.models import FrameStream

OURS = "this package"
_CLIPS = ("onnx", "onnx-int8", "torch-export")


def measure(seconds: float) -> dict[str, Any]:
    """Export the network of the video recipe, causal and untrained, and time all forms in turns.

    Args:
        seconds: For each of the two rows of contenders, about.

    Returns:
        ``files``: megabytes, largest difference and note by form; ``clip`` and ``frame``: milliseconds of a clip of
        sixteen frames, and of the next frame of a stream.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        inferencer = AffectInferencer(write_streamed(folder / "net.pth"), device="cpu")
        network: Any = inferencer.model
        torch.nn.init.normal_(network.head.regress.weight)  # predictions of the size that trained ones have
        exporter = Exporter(inferencer)
        calibration = Calibration(inferencer, [write_video(folder / "head.mp4", 4 * FPS)])
        forms = [form for form in ENDS if form != "dense"]  # with motion components there is none
        files = {form: exporter.write(form, folder / f"net{ENDS[form]}", calibration) for form in forms}
        pictures = np.stack(list(islice(talking_head(count(), (SIZE, SIZE)), WINDOW)))
        clip = np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)[None])
        clips = interleaved(_clips(inferencer, files, pictures, clip), rounds=50, seconds=seconds)
        frames = interleaved(_frames(inferencer, files["onnx-stream"].path, clip), rounds=200, seconds=seconds)
        told = {form: {"mb": f.size / 1e6, "error": f.error, "note": f.note} for form, f in files.items()}
        return {"files": told, "clip": clips, "frame": frames}


def _clips(inferencer: AffectInferencer, files: dict[str, Exported], pictures: Any, clip: Any) -> dict[str, Step]:
    contenders: dict[str, Step] = {OURS: lambda: inferencer.predict_clips([pictures], flip=False, both_views=False)}
    for form in _CLIPS:
        contenders[form] = _program(form, files[form].path, clip)
    return contenders


def _program(form: str, path: Path, clip: Any) -> Step:
    if form == "torch-export":
        module, given = torch.export.load(path).module(), torch.from_numpy(clip)
        return torch.inference_mode()(lambda: module(given))
    session = _session(path)
    return lambda: session.run(None, {"clips": clip})


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    # Threads that wait for more work would take the cores from whoever comes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _frames(inferencer: AffectInferencer, path: Path, clip: Any) -> dict[str, Step]:
    stream = FrameStream(inferencer.model, SIZE)
    frame = inferencer.model.data_preprocessor({"inputs": list(torch.from_numpy(clip))})["inputs"][0, :, :1]
    session = _session(path)
    given = {"frames": clip[:, :, 0], "fresh": np.array([False])}
    memory = {one.name: np.zeros((1, *one.shape[1:]), np.float32) for one in session.get_inputs()[2:]}
    return {OURS: lambda: stream.push({0: frame}), "onnx-stream": lambda: session.run(None, {**given, **memory})}


def export_lines(results: dict[str, Any]) -> list[str]:
    """Return the section of the page."""
    body = [[OURS, "", f"{results['clip'][OURS]:.1f}", f"{results['frame'][OURS]:.1f}", "", ""]]
    for form, file in results["files"].items():
        times = [f"{results[key][form]:.1f}" if form in results[key] else "" for key in ("clip", "frame")]
        body.append([f"`{form}`", f"{file['mb']:.1f}", *times, f"{file['error']:.1e}", file["note"]])
    head = ["form", "MB", f"a clip of {WINDOW} frames, ms", "a frame of a stream, ms", "largest difference", ""]
    return [
        f"## Exported: ResNet-18 at R = C with motion components, causal, {SIZE} x {SIZE}",
        "",
        "Untrained, so what 8 bits cost is that of noise around a mean; with pre-processing. `dense` is for networks",
        "without time. ONNX Runtime with all threads.",
        "",
        *table(head, body),
    ]
