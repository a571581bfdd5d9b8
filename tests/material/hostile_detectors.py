"""Files of detectors that end, occupy or fill the process that trusts them."""

import io
import zipfile
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

CASCADE = """<?xml version="1.0"?>
<opencv_storage>
<cascade type_id="opencv-cascade-classifier"><stageType>BOOST</stageType><featureType>HAAR</featureType>
<height>24</height><width>24</width>
<stageParams><maxWeakCount>1</maxWeakCount></stageParams><featureParams><maxCatCount>0</maxCatCount></featureParams>
<stageNum>1</stageNum>
<stages><_><maxWeakCount>1</maxWeakCount><stageThreshold>1.5</stageThreshold>
<weakClassifiers><_><internalNodes>0 -1 0 0.8</internalNodes><leafValues>1.0 2.0</leafValues></_></weakClassifiers>
</_></stages>
<features><_><rects><_>0 0 24 24 -1.</_><_>0 0 12 24 2.</_></rects><tilted>0</tilted></_></features>
</cascade>
</opencv_storage>
"""
"""A cascade of one stage; it finds what is brighter on its left half."""

ENDLESS_CASCADE = """<?xml version="1.0"?>
<opencv_storage><c type_id="opencv-haar-classifier"><size>20 20</size><stages><_><trees><_><_>
<feature><rects><_>0 0 9 9 -1.</_></rects><tilted>0</tilted></feature><threshold>0.1</threshold><left_val>1</left_val>
<right_node>0</right_node></_></_></trees><stage_threshold>0.</stage_threshold><parent>-1</parent><next>-1</next>
</_></stages></c></opencv_storage>
"""
"""A cascade of the old kind, whose faces OpenCV does not come to an end with."""

_STAGE = CASCADE[CASCADE.index("<stages>") + len("<stages>") : CASCADE.index("</stages>")]
TREACHEROUS_CASCADE = CASCADE.replace(_STAGE, _STAGE + _STAGE.replace("0 -1 0 0.8", "0 -1 99999999 0.8")).replace(
    "<stageNum>1", "<stageNum>2"
)
"""A cascade whose second stage, which only a face comes to, looks outside of its memory."""

BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))


def _with(old: str, new: str) -> bytes:
    assert old in CASCADE
    return CASCADE.replace(old, new).encode()


CASCADES: dict[str, bytes] = {
    "empty": b"",
    "random": np.random.default_rng(0).bytes(5000),
    "text": b"not a cascade\n" * 100,
    "cut": CASCADE.encode()[:600],
    "another root": b"<other/>",
    "no cascade": b"<?xml version='1.0'?><opencv_storage><a>1</a></opencv_storage>",
    "an entity": CASCADE.replace("<opencv_storage>", '<!DOCTYPE a [<!ENTITY a "b">]><opencv_storage>').encode(),
    "an entity bomb": f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e0 "a">{BOMB}]><opencv_storage>&e11;'.encode(),
    "very deep": b'<?xml version="1.0"?>\n<opencv_storage>' + b"<a>" * 200_000,
    "a feature outside": _with("0 -1 0 0.8", "0 -1 99999999 0.5"),
    "no nodes": _with("0 -1 0 0.8", ""),
    "a rectangle outside": _with("0 0 24 24 -1.", "100000000 100000000 24000 24000 -1."),
    "no width": _with("<width>24", "<width>0"),
    "a negative width": _with("<width>24", "<width>-5"),
    "a huge width": _with("<width>24", "<width>2000000000"),
    "no features": CASCADE.replace("features>", "others>").encode(),
    "a stage of a feature outside": TREACHEROUS_CASCADE.replace("0 -1 0 0.8", "0 -1 0 -9").encode(),
}
"""Cascades that are refused, however that shows."""


def _change(change: Callable[[onnx.ModelProto], object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        change(model)
        return model.SerializeToString()

    return changed


def _set_sides(model: onnx.ModelProto, name: str, sides: list[int]) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == name:
                attribute.CopyFrom(helper.make_attribute(name, sides))


def _set_dims(model: onnx.ModelProto, sides: list[int]) -> None:
    for tensor in model.graph.initializer:
        del tensor.dims[:]
        tensor.dims.extend(sides)


def _grow(model: onnx.ModelProto) -> None:
    """Let the outputs take terabytes."""
    shape = numpy_helper.from_array(np.array([1, 2**20, 2**20], dtype=np.int64), "huge")
    model.graph.initializer.append(shape)
    for name in [output.name for output in model.graph.output]:
        for node in model.graph.node:
            if node.output[0] == name:
                node.CopyFrom(helper.make_node("ConstantOfShape", ["huge"], [name]))


def _turn_in_a_circle(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[0] = node.output[0]


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("yunet.onnx", content)
    return file.getvalue()


NETWORKS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "random": lambda content: np.random.default_rng(0).bytes(5000),
    "text": lambda content: b"not a network\n" * 100,
    "in a zip file": _zip,
    "cut early": lambda content: content[:40],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "without a graph": _change(lambda model: model.ClearField("graph")),
    "without outputs": _change(lambda model: model.graph.ClearField("output")),
    "without constants": _change(lambda model: model.graph.ClearField("initializer")),
    "without layers": _change(lambda model: model.graph.ClearField("node")),
    "of layers that feed themselves": _change(_turn_in_a_circle),
    "of huge outputs": _change(_grow),
    "of steps of nothing": _change(lambda model: _set_sides(model, "strides", [0, 0])),
    "of constants of negative sides": _change(lambda model: _set_dims(model, [-1, -5])),
    "of constants larger than the file": _change(lambda model: _set_dims(model, [2**20, 2**20])),
    "of constants of sides that overflow": _change(lambda model: _set_dims(model, [2**62, 4])),
    "of an unknown layer": _change(lambda model: model.graph.node.append(helper.make_node("Other", ["input"], ["x"]))),
}
"""Networks that are refused, made from the bytes of a good one."""
