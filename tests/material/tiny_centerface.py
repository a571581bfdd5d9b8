"""A network with CenterFace's outputs that takes red squares of 8 x 8 pixels for faces, as an onnx file.

As the real one, it was exported for another size than it is used with, and multiplies its map before the last layer.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL = 8
SIDES = (48.0, 40.0)  # height and width of every face in pixels
OFFSETS = (0.25, -0.5)  # down and right, in cells of 4 pixels
POINTS = ((0.3, 0.35), (0.7, 0.35), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))  # right and down, in widths and heights
NAMES = ("537", "538", "539", "540")
CHANNELS = (1, 2, 2, 10)


def write_tiny_centerface(
    path: Path, names: tuple[str, ...] = NAMES, channels: tuple[int, ...] = CHANNELS, steepness: float = 8.0
) -> Path:
    """Write the network; with other ``names`` or ``channels`` it is not a CenterFace."""
    red = np.zeros((1, 3, CELL, CELL))
    red[0, 0] = 1 / (255 * CELL**2)  # CenterFace is fed red, green, blue
    spread = np.zeros((1, 1, 2, 2))
    spread[0, 0, 0, 0] = 1  # the first of four cells of 4 x 4 pixels
    values = [None, np.log(np.array(SIDES) / 4), OFFSETS, [x for point in POINTS for x in reversed(point)]]
    constants = {"red": red, "spread": spread, "scale": [steepness], "shift": [-4.0], "mean": [0.0], "var": [1.0]}
    nodes = [
        helper.make_node("Conv", ["input.1", "red"], ["seen"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("ConvTranspose", ["seen", "spread"], ["wide"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["wide", "scale", "shift", "mean", "var"], ["map"], epsilon=1e-9),
    ]
    for name, count, value in zip(names, channels, values, strict=False):
        if value is None:
            nodes.append(helper.make_node("Sigmoid", ["map"], [name]))
            continue
        bias = np.resize(np.asarray(value, dtype=np.float64), count)
        constants |= {f"{name}w": np.zeros((count, 1, 1, 1)), f"{name}b": bias}
        nodes.append(helper.make_node("Conv", ["map", f"{name}w", f"{name}b"], [name], kernel_shape=[1, 1]))
    initial = [numpy_helper.from_array(np.asarray(v, dtype=np.float32), k) for k, v in constants.items()]
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [10, 3, 32, 32])
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [10, count, 8, 8])
        for name, count in zip(names, channels, strict=False)
    ]
    graph = helper.make_graph(nodes, "centerface", [picture], results, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def true_points(cell: tuple[int, int], scale: float = 1) -> np.ndarray:
    """Return the five points ``[5, 2]`` of the face at a cell (column, row) of 8 pixels, in pixels."""
    middle = np.array(cell) * CELL + 4 * (0.5 + np.array(OFFSETS[::-1]))
    sides = np.array(SIDES[::-1])
    return (middle + (np.array(POINTS) - 0.5) * sides) * scale
