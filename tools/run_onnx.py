"""Run an exported network with ONNX Runtime and NumPy alone: ``python run_onnx.py best.onnx crops.npy``.

``crops.npy`` holds the face in every frame, uint8 ``[T, H, W, 3]``, RGB, cut as the file's metadata say.
``best_stream.onnx`` gets one frame after the other, as they would come from a camera. Prints a row for every frame.
"""

import argparse
import json
import sys
from collections.abc import Iterator

import numpy as np
import onnxruntime


def read_facts(session: onnxruntime.InferenceSession) -> dict:
    """Return what the file says of itself."""
    return {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}


def as_input(frames: np.ndarray, facts: dict) -> np.ndarray:
    """Turn ``[..., H, W, 3]`` into what the network takes, channels in front."""
    if (frames.shape[-3], frames.shape[-2]) != (facts["height"], facts["width"]):
        sys.exit(f"crops must be {facts['height']} x {facts['width']} pixels, got {frames.shape[-3:-1]}")
    if not facts["preprocess"]:
        frames = ((frames - np.float32(facts["mean"])) / np.float32(facts["std"])).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(frames, -1, 0))  # [3, T, H, W]


def of_clip(session: onnxruntime.InferenceSession, frames: np.ndarray) -> np.ndarray:
    """All frames at once: every one may see those around it."""
    return np.asarray(session.run(["affect"], {"clips": frames[None]})[0])[0]


def of_stream(session: onnxruntime.InferenceSession, frames: np.ndarray) -> Iterator[np.ndarray]:
    """One frame after the other; the memory of the layers goes out and in again."""
    memory = {i.name: np.zeros((1, *i.shape[1:]), np.float32) for i in session.get_inputs() if "memory" in i.name}
    for number in range(frames.shape[1]):
        given = {"frames": frames[None, :, number], "fresh": np.array([number == 0]), **memory}
        affect, *rest = map(np.asarray, session.run(None, given))
        memory = dict(zip(memory, rest[len(rest) - len(memory) :], strict=True))
        yield affect[0]


def main(file: str, crops: str) -> None:
    """Print valence and arousal of every frame."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    frames = as_input(np.load(crops), facts := read_facts(session))
    affect = (of_stream if facts["form"] == "onnx-stream" else of_clip)(session, frames)
    print("frame,valence,arousal")
    for number, (valence, arousal) in enumerate(np.clip(list(affect), *facts["range"])):
        print(f"{number},{valence:.6f},{arousal:.6f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("file", "crops"):
        parser.add_argument(name)
    main(**vars(parser.parse_args()))
