"""A network with YuNet's outputs that takes red squares of 8 x 8 pixels for faces, as an onnx file."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Where the parts of a face lie, in cells of 8 pixels: the red cell is at the face's right eye.
BOX = (0.5, 0.5, np.log(6), np.log(8))  # centre, and logarithm of width and height
POINTS = ((0.5, 0.5), (2.5, 0.5), (1.5, 1.5), (0.75, 2.5), (2.25, 2.5))  # eyes, nose, mouth corners
CELL = 8


def write_tiny_yunet(path: Path, outputs: tuple[str, ...] = ("cls", "obj", "bbox", "kps")) -> Path:
    """Write the network; with other ``outputs`` it is not a YuNet."""
    nodes, constants, results = [], [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    for stride in (8, 16, 32):
        red = np.zeros((1, 3, stride, stride), dtype=np.float32)
        red[0, 2] = 1 / (255 * stride**2)  # OpenCV feeds blue, green, red
        sides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("Conv", ["input", constant(f"w{stride}", red)], [f"red{stride}"], **sides))
        values = {"cls": None, "obj": None, "bbox": BOX, "kps": np.ravel(POINTS)}
        for name in outputs:
            fixed = np.zeros(1) if values[name] is None else np.asarray(values[name])
            # Only the finest grid sees faces; boxes and points do not depend on the picture.
            seen = np.full((len(fixed), 1, 1, 1), values[name] is None and stride == CELL, dtype=np.float32)
            key = f"{name}_{stride}"
            weights = [constant(f"{key}w", seen), constant(f"{key}b", fixed.astype(np.float32))]
            nodes.append(helper.make_node("Conv", [f"red{stride}", *weights], [f"{key}m"], kernel_shape=[1, 1]))
            nodes.append(helper.make_node("Transpose", [f"{key}m"], [f"{key}t"], perm=[0, 2, 3, 1]))
            shape = constant(f"{key}s", np.array([1, -1, len(fixed)], dtype=np.int64))
            nodes.append(helper.make_node("Reshape", [f"{key}t", shape], [key]))
            results.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, [1, None, len(fixed)]))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "yunet", [picture], results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def red_faces(size: tuple[int, int], cells: list[tuple[int, int]], scale: int = 1) -> np.ndarray:
    """Return a black RGB frame of ``size`` (width, height) with a red cell at each (column, row), times ``scale``."""
    frame = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    side = CELL * scale
    for column, row in cells:
        frame[row * side : (row + 1) * side, column * side : (column + 1) * side, 0] = 255
    return frame


def true_points(cell: tuple[int, int], scale: int = 1) -> np.ndarray:
    """Return the five points ``[5, 2]`` of the face at a cell, in pixels."""
    return (np.array(POINTS) + cell) * CELL * scale
