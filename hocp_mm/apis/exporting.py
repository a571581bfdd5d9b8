"""A trained network as a file for other programs, each compared with the network before it is kept.

onnx           clips of any number and length                         ONNX Runtime and others
onnx-int8      the same with 8-bit weights and activations            ONNX Runtime
onnx-stream    the next frame of any number of streams, memory outside
torch-export   clips, as a program of torch.export                    PyTorch without this package
dense          the backbone as timm's own network, if it sees no time timm
safetensors    all weights and the config, nothing that could run     this package
"""

import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from hocp_mm import __version__
from hocp_mm.apis.inferencer import AffectInferencer
from hocp_mm.errors import HOCPError, MissingDataError
from hocp_mm.layers import merge_dense_
from hocp_mm.layers.options import conv_arguments
from hocp_mm.layers.surgery import replace_
from hocp_mm.layers.temporal import FrameFoldedConv2d
from hocp_mm.models.exporting import ClipNetwork, StepNetwork
from hocp_mm.models.recognizers import AffectRecognizer
from hocp_mm.system.files import replacing

ENDS = {
    "onnx": ".onnx",
    "onnx-int8": "_int8.onnx",
    "onnx-stream": "_stream.onnx",
    "torch-export": ".pt2",
    "dense": "_dense.safetensors",
    "safetensors": ".safetensors",
}
"""Ends of the files' names, by form."""
TOLERANCE = 1e-4
"""Largest difference to the network, in units of valence and arousal, or of the largest prediction above 1."""
OPSET = 20
_STREAMED = 200  # frames over which a stream is compared
_CALIBRATION = 64  # windows, of which 8-bit ranges are taken
_Says = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        form: Key of `ENDS`.
        path: The file.
        size: Bytes.
        error: Largest difference to the network; for 8 bits on the windows of the clips.
        note: More to tell.
    """

    form: str
    path: Path
    size: int
    error: float
    note: str = ""


class Exporter:
    """Writes a trained network in several forms.

    Args:
        inferencer: The network.
        preprocess: Let ONNX and torch.export take RGB as it is, uint8 in [0, 255]; else normalised floats.
        opset: Of ONNX.

    Attributes:
        size: Height and width of what the network sees, pixels.

    Raises:
        HOCPError: If the network is no `AffectRecognizer` on the CPU, or this PyTorch cannot export.
    """

    def __init__(self, inferencer: AffectInferencer, *, preprocess: bool = True, opset: int = OPSET) -> None:
        network: Any = inferencer.model
        if not isinstance(network, AffectRecognizer) or inferencer.device.type != "cpu":
            raise HOCPError(
                f"export: the network must be an AffectRecognizer on the CPU, got {type(network).__name__} on "
                f"{inferencer.device}."
            )
        if not hasattr(torch.compiler, "is_exporting"):
            raise HOCPError(f"export: PyTorch must be 2.7 or newer, got {torch.__version__}.")
        self.inferencer, self.network = inferencer, network
        self.preprocess, self.opset = preprocess, opset
        self.size = inferencer.rule.seen

    def write(self, form: str, path: Path, calibration: "Calibration | None" = None) -> Exported:
        """Write a file; it appears when it has been compared, or not at all.

        Args:
            form: Key of `ENDS`.
            path: The file; its folder is made.
            calibration: Windows for ``onnx-int8``.

        Returns:
            What was written.

        Raises:
            HOCPError: If the network has no such form (the reason is told), or a file says something else.
            MissingDataError: If a package is missing.
            OutputError: If the disk refuses the file.
        """
        writers = {
            "onnx": self._onnx,
            "onnx-stream": self._onnx_stream,
            "torch-export": self._torch_export,
            "dense": self._dense,
            "safetensors": self._safetensors,
        }
        if form in ("onnx", "onnx-int8", "onnx-stream"):
            require_packages()
        with replacing(path) as draft, torch.no_grad():
            if form == "onnx-int8":
                if calibration is None:
                    raise HOCPError("export: onnx-int8 needs clips by which ranges are chosen, got none.")
                error, note = self._onnx_int8(draft, calibration)
            else:
                error, note = writers[form](draft), ""
                if not error <= TOLERANCE:
                    raise HOCPError(
                        f"export: a file must say what the network says within {TOLERANCE:g}, got a difference of "
                        f"{error:.2g} ({form}, {path}; nothing was kept)."
                    )
        return Exported(form, path, path.stat().st_size, error, note)

    def facts(self, form: str) -> dict[str, Any]:
        """Return what a program must know that runs a file: crop, rate, ranges, names."""
        network: Any = self.network
        rule, preprocessor, backbone = self.inferencer.rule, network.data_preprocessor, network.backbone
        return {
            "producer": f"hocp_mm {__version__}",
            "form": form,
            "network": getattr(backbone, "model_name", type(backbone).__name__),
            "height": self.size[0],
            "width": self.size[1],
            "colours": "RGB",
            "preprocess": self.preprocess,
            "mean": preprocessor.mean.flatten().tolist(),
            "std": preprocessor.std.flatten().tolist(),
            "crop_size": rule.size,
            "crop_margin": rule.margin,
            "crop_smooth": rule.smooth,
            "fps": rule.fps,
            "frame_interval": rule.frame_interval,
            "clip_frames": rule.clip_len,
            "stride": rule.stride,
            "range": [-1, 1],
            "expressions": list(self.inferencer.expressions),
        }

    def _onnx(self, draft: Path, form: str = "onnx") -> float:
        _save(self._clip_onnx, draft, self.facts(form), self.opset)
        return self._compare(_clip_session(draft))

    @cached_property
    def _clip_program(self) -> Any:
        network = ClipNetwork(self.network, self.size, preprocess=self.preprocess)
        dims = {0: torch.export.Dim("clips"), 2: torch.export.Dim("frames")}
        return _program(network, (self._pictures(2, 3),), (dims,))

    @cached_property
    def _clip_onnx(self) -> Any:
        return _to_onnx(self._clip_program, ["clips"], self._outputs(), self.opset)

    def _onnx_stream(self, draft: Path) -> float:
        try:
            network = StepNetwork(self.network, self.size, preprocess=self.preprocess)
        except NotImplementedError as error:
            raise HOCPError(f"export: onnx-stream: {error}") from error
        names = [f"memory_{number}" for number in range(len(network.memory))]
        arguments = (self._pictures(2, 1)[:, :, 0], torch.tensor([True, False]), *network.nothing(2))
        streams = {0: torch.export.Dim("streams")}
        memory = (tuple(streams for _ in names),) if names else ()
        program = _program(network, arguments, (streams, streams, *memory))
        facts = {
            **self.facts("onnx-stream"),
            "memory": dict(zip(names, map(list, network.memory.values()), strict=True)),
        }
        inputs, outputs = ["frames", "fresh", *names], [*self._outputs(), *(f"next_{name}" for name in names)]
        _save(_to_onnx(program, inputs, outputs, self.opset), draft, facts, self.opset)
        return self._compare_stream(draft, [tensor.numpy() for tensor in network.nothing(2)], names)

    def _onnx_int8(self, draft: Path, calibration: "Calibration") -> tuple[float, str]:
        from onnxruntime import quantization

        with tempfile.TemporaryDirectory() as place:
            float_file, ready = Path(place) / "float.onnx", Path(place) / "ready.onnx"
            self._onnx(float_file, "onnx-int8")
            whole = calibration.said(_clip_session(float_file), self)
            with _quiet():
                quantization.shape_inference.quant_pre_process(float_file, ready, skip_symbolic_shape=True)
                quantization.quantize_static(
                    ready,
                    draft,
                    calibration.reader(self),
                    per_channel=True,
                    quant_format=quantization.QuantFormat.QDQ,
                    weight_type=quantization.QuantType.QInt8,
                )
        said = calibration.said(_clip_session(draft), self)
        error = max(float(np.abs(one - other).max()) for one, other in zip(whole, said, strict=True))
        return error, calibration.verdict(whole, said)

    def _torch_export(self, draft: Path) -> float:
        buffer = io.BytesIO()
        with _quiet():
            torch.export.save(
                self._clip_program, buffer, extra_files={"hocp_mm.json": json.dumps(self.facts("torch-export"))}
            )
        draft.write_bytes(buffer.getvalue())
        module = torch.export.load(io.BytesIO(draft.read_bytes())).module()

        def says(clips: NDArray[Any]) -> list[NDArray[np.float32]]:
            return [value.numpy() for value in module(torch.from_numpy(clips))]

        return self._compare(says)

    def _dense(self, draft: Path) -> float:
        """Write timm's own network, and compare it with ours on single frames."""
        backbone: Any = copy.deepcopy(self.network.backbone)
        try:
            _drop_time_(backbone)
        except NotImplementedError as error:
            raise HOCPError(f"export: dense: {error}") from error
        state = {name: tensor.detach().contiguous() for name, tensor in backbone.net.state_dict().items()}
        facts = {name: json.dumps(value) for name, value in self.facts("dense").items()}
        head = {f"head.{name}": tensor.contiguous() for name, tensor in self.network.head.state_dict().items()}
        draft.write_bytes(save({**state, **head}, facts))
        network: Any = timm.create_model(backbone.model_name, in_chans=backbone.in_chans, num_classes=0).eval()
        found = network.load_state_dict(state, strict=False)
        if found.unexpected_keys:
            raise HOCPError(
                "export: dense: the weights must be those of timm's network, got others (such as "
                f"{found.unexpected_keys[0]}; options of the backbone change it)."
            )
        pictures = _normalised(self._noise(2, 1), self.network)
        own = self.network.backbone(pictures)
        own, index = (own if isinstance(own, Tensor) else own[-1])[:, :, 0], self.network.backbone.stages.indices[-1]
        (theirs,) = network.forward_intermediates(pictures[:, :, 0], indices=[index], intermediates_only=True)
        return float((own - theirs).abs().max() / own.abs().max().clamp_min(1))

    def _safetensors(self, draft: Path) -> float:
        state = {name: tensor.detach().contiguous() for name, tensor in self.network.state_dict().items()}
        facts = {name: json.dumps(value) for name, value in self.facts("safetensors").items()}
        # Tensors of one storage have no place of their own there.
        content = {name: tensor.clone() for name, tensor in state.items()}
        draft.write_bytes(save(content, {**facts, "cfg": self.inferencer.cfg.pretty_text}))
        network: Any = AffectInferencer(draft, device="cpu").model
        pictures = _normalised(self._noise(1, 3), self.network)
        return float((network(pictures) - self.network(pictures)).abs().max())

    def _outputs(self) -> list[str]:
        return ["affect", "expressions"] if self.network.head.classify is not None else ["affect"]

    def _pictures(self, clips: int, frames: int) -> Tensor:
        """Return an example of an input."""
        noise = self._noise(clips, frames)
        return noise if self.preprocess else _normalised(noise, self.network)

    def _noise(self, clips: int, frames: int, seed: int = 0) -> Tensor:
        """Return pictures that change slowly, uint8: a face is none of them, and no noise either."""
        generator = torch.Generator().manual_seed(seed)
        rough = torch.rand(clips, 3, max(2, frames // 2), 5, 5, generator=generator)
        smooth = torch.nn.functional.interpolate(rough, (frames, *self.size), mode="trilinear", align_corners=True)
        grain = torch.rand(smooth.shape, generator=generator) - 0.5
        return ((smooth + 0.2 * grain).clamp(0, 1) * 255).to(torch.uint8)

    def _compare(self, says: _Says) -> float:
        """Return the largest difference to the network, on several clips of several lengths."""
        length = self.inferencer.rule.clip_len
        shapes = {(1, 1), (2, 5), (3, 2), (1, length)}
        return max(self._difference(says, self._noise(*shape, seed=number)) for number, shape in enumerate(shapes))

    def _difference(self, says: _Says, clips: Tensor) -> float:
        given = clips if self.preprocess else _normalised(clips, self.network)
        said = np.concatenate(says(given.numpy()), axis=-1)
        return _relative(said, self._by_network(clips))

    def _by_network(self, clips: Tensor) -> NDArray[np.float32]:
        """Return what the network itself says, the way an evaluation asks it."""
        return self.inferencer.predict_clips(list(clips.permute(0, 2, 3, 4, 1).numpy()), flip=False, both_views=False)

    def _compare_stream(self, file: Path, memory: list[NDArray[Any]], names: list[str]) -> float:
        """Return the largest difference to the network on whole clips; the second stream begins later."""
        session, late = _session(file), _STREAMED // 4
        clips = self._noise(2, _STREAMED)
        given = clips if self.preprocess else _normalised(clips, self.network)
        count, said = len(self._outputs()), []
        for number in range(_STREAMED):
            fresh = np.array([number == 0, number in (0, late)])
            feed = {"frames": given[:, :, number].numpy(), "fresh": fresh, **dict(zip(names, memory, strict=True))}
            found = session.run(None, feed)
            said.append(np.concatenate(found[:count], axis=-1))
            memory = found[count:]
        streamed = np.stack(said, axis=1)
        first, second = self._by_network(clips[:1]), self._by_network(clips[1:, :, late:])
        return max(_relative(streamed[:1], first), _relative(streamed[1:, late:], second))


class Calibration:
    """Windows of a few clips, by which 8-bit ranges are chosen, and what 8 bits cost is told.

    Args:
        inferencer: The network, which watches them.
        clips: Videos.
        faces: As in `AffectInferencer.watch`.

    Raises:
        HOCPError: As `AffectInferencer.watch` does.
    """

    def __init__(self, inferencer: AffectInferencer, clips: Sequence[Path], faces: Any = "auto") -> None:
        self.windows: list[NDArray[np.uint8]] = []
        watching = copy.copy(inferencer)  # with another answer to the windows

        def keep(windows: Sequence[NDArray[np.uint8]], flip: bool, both_views: bool) -> NDArray[np.float32]:
            self.windows.extend(windows)
            return inferencer.predict_clips(windows, flip, both_views)

        watching.predict_clips = keep  # pyright: ignore[reportAttributeAccessIssue]
        for clip in clips:
            watching.predict(clip, faces)

    def said(self, says: _Says, exporter: Exporter) -> list[NDArray[np.float32]]:
        """Return valence and arousal of every window, ``[T, 2]`` each."""
        return [says(self._given(window, exporter))[0][0] for window in self.windows]

    def reader(self, exporter: Exporter) -> Any:
        """Return what ONNX Runtime asks for its next input."""
        from onnxruntime.quantization import CalibrationDataReader

        class Reader(CalibrationDataReader):
            def __init__(self, windows: Iterator[NDArray[Any]]) -> None:
                self._windows = windows

            def get_next(self) -> Any:
                window = next(self._windows, None)
                return None if window is None else {"clips": window}

        step = max(1, len(self.windows) // _CALIBRATION)
        return Reader(self._given(window, exporter) for window in self.windows[::step])

    def verdict(self, whole: Iterable[NDArray[Any]], said: Iterable[NDArray[Any]]) -> str:
        """Return how far two predictions of all windows agree."""
        from hocp_mm.functional.agreement import ccc

        one, other = (torch.from_numpy(np.concatenate(list(values))) for values in (whole, said))
        valence, arousal = ccc(other[None], one[None], torch.ones(1, len(one), dtype=torch.bool)).tolist()
        return f"CCC with 32 bits {valence:.3f} and {arousal:.3f} on {len(self.windows)} windows"

    def _given(self, window: NDArray[np.uint8], exporter: Exporter) -> NDArray[Any]:
        clip = torch.from_numpy(np.ascontiguousarray(window.transpose(3, 0, 1, 2)))[None]
        return (clip if exporter.preprocess else _normalised(clip, exporter.network)).numpy()


def require_packages() -> None:
    """Refuse where what writes or runs ONNX is missing.

    Raises:
        MissingDataError: Which says what to install.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise MissingDataError(
            f"export: ONNX needs {', '.join(missing)}, which is not installed: pip install 'hocp-mm[export]'."
        )


def _program(network: torch.nn.Module, arguments: tuple[Any, ...], shapes: Any) -> Any:
    with _quiet():
        return torch.export.export(network.eval(), arguments, dynamic_shapes=shapes, strict=False)


def _to_onnx(program: Any, inputs: list[str], outputs: list[str], opset: int) -> Any:
    with _quiet():
        done: Any = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=opset, input_names=inputs, output_names=outputs
        )
    # The exporter keeps its own version where it cannot convert, and says so in a warning only.
    if (got := done.model.opset_imports[""]) != opset:
        raise HOCPError(
            f"export: opset must be one that the installed exporter can write, got {opset} (it wrote {got})."
        )
    return done


def _save(program: Any, draft: Path, facts: Mapping[str, Any], opset: int) -> None:
    program.model.metadata_props.update({name: json.dumps(value) for name, value in {**facts, "opset": opset}.items()})
    program.save(draft, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what exporters say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _session(file: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def _clip_session(file: Path) -> _Says:
    session = _session(file)
    return lambda clips: session.run(None, {"clips": clips})


def _relative(said: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(said - expected).max() / max(1.0, float(np.abs(expected).max())))


def _normalised(clips: Tensor, network: AffectRecognizer) -> Tensor:
    return network.data_preprocessor({"inputs": list(clips)})["inputs"].contiguous()


def _drop_time_(backbone: Any) -> None:
    """Make the inner network a dense one of images.

    Raises:
        NotImplementedError: If a layer sees other frames, or is no dense convolution.
    """
    if backbone.factorized:
        merge_dense_(backbone.net)
    for name, layer in backbone.net.named_modules():
        if isinstance(layer, FrameFoldedConv2d):
            taps = layer.factors["t"].detach()
            others = taps.clone()
            others[layer.before] = 0
            if others.any() or layer.motion is not None or layer.standardization is not None or layer.follows_size:
                raise NotImplementedError(
                    f"a layer must see single frames, as timm's does, got '{name}', which sees more."
                )
            plain: Any = torch.nn.Conv2d(**conv_arguments(layer))
            plain.weight.copy_(layer.weight * taps[layer.before].reshape(-1, 1, 1, 1))
            if layer.bias is not None:
                plain.bias.copy_(layer.bias)
            replace_(backbone.net, name, plain)
