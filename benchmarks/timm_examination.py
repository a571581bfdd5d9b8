"""Convert one network of timm and measure everything that transduction promises.

Errors are those in float64: in float32 rounding grows with depth to what a fault could look like. A backward pass runs
in both, as they are different code of PyTorch and its libraries.
"""

import logging
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd as ConvNd

from hocp_mm.analysis.measures import dense_error, framewise_error, time_leaks, untouched_parameters
from hocp_mm.analysis.twins import FULL, MOTION, build_twins, own_size, save_random_weights, video_network
from hocp_mm.models import TimmHOCPBackbone

SIZES = (64, 96, 128, 224, 256)
"""Of inputs, pixels, in the order in which they are tried; then the network's own."""
TOLERANCE = 1e-5
_FRAMES, _RANK = 4, 4

Task = tuple[str, str, bool]
"""Module, name, and whether re-parameterisable blocks are fused first."""


@dataclass
class Row:
    """What came out for one network; numbers are NaN where it did not get so far."""

    module: str
    model: str
    options: str = ""
    size: int = 0
    factorized: int = 0
    transducted: int = 0
    kept: int = 0
    framewise: float = float("nan")
    dense: float = float("nan")
    leak: float = float("nan")
    reach: float = float("nan")
    temporal: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    seconds: float = 0.0
    result: str = ""


def examine_alone(task: Task) -> Row:
    """Examine one network in a process for that alone, quiet, and single-threaded beside its neighbours."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    return examine(task)


def examine(task: Task) -> Row:
    """Convert one network and measure it; whatever goes wrong is written into the row."""
    torch.manual_seed(0)
    module, name, fused = task
    row, start = Row(module, name, "reparameterize" if fused else ""), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _measure(row, Path(folder) / "weights.pth", fused)
        row.result = _verdict(row)
    except (ValueError, NotImplementedError) as error:
        known = re.match(r"(TimmHOCPBackbone|factorize_|transduct_): ", str(error))
        row.result = f"refused: {error}" if known else _failure(error)
    except Exception as error:
        row.result = _failure(error)
    row.seconds = time.monotonic() - start
    return row


def _measure(row: Row, weights: Path, fused: bool) -> None:
    name = row.model
    # Refusals come before the search for a size.
    TimmHOCPBackbone(name, rank=1, reparameterize=fused)
    row.size, timm_options = _input_of(name)
    if timm_options:
        row.options = f"{row.options} img_size".strip()
    options = {"reparameterize": fused, "timm_options": timm_options}
    save_random_weights(weights, name, torch.randn(4, 3, row.size, row.size), timm_options=timm_options)
    twins = build_twins(name, str(weights), rank=_RANK, **options).double()
    clip = torch.randn(1, 3, _FRAMES, row.size, row.size, dtype=torch.float64)
    _count_layers(row, twins.video)
    row.framewise = framewise_error(twins.video, twins.image, clip)
    leaks = time_leaks(twins.causal, torch.randn(2, 3, 3, row.size, row.size, dtype=torch.float64))
    row.leak, row.reach = max(leaks.future, leaks.clips, leaks.length), leaks.reach
    _note_untouched(row, twins.video, clip)
    options["out_indices"] = twins.video.stages.indices
    _round_trip(twins.video, clip, options)
    exact, _ = video_network(name, str(weights), FULL, **options)
    assert twins.dense is not None  # what was saved is dense
    row.dense = max(dense_error(exact.double().eval(), twins.dense, clip))
    _note_untouched(row, twins.video.float(), clip.float())


def _note_untouched(row: Row, video: TimmHOCPBackbone, clip: Tensor) -> None:
    untouched = untouched_parameters(video, clip)
    row.temporal += [told for f, why in untouched.temporal.items() if (told := f"{f} ({why})") not in row.temporal]
    row.parameters += [name for name in untouched.parameters if name not in row.parameters]


def _count_layers(row: Row, video: TimmHOCPBackbone) -> None:
    row.factorized, row.transducted = len(video.factorized), len(video.transducted)
    seen = {*video.factorized, *video.transducted}
    layers = ((name, layer) for name, layer in video.net.named_modules() if isinstance(layer, ConvNd))
    row.kept = sum(name not in seen for name, _ in layers)


def _round_trip(video: TimmHOCPBackbone, clip: Tensor, options: Mapping[str, Any]) -> None:
    """Fill a second backbone with the state of the first; it must do the same."""
    second = TimmHOCPBackbone(video.model_name, rank=_RANK, motion=MOTION, **options).double().eval()
    second.load_state_dict(video.state_dict())
    with torch.no_grad():
        if not all(torch.equal(a, b) for a, b in zip(video(clip), second(clip), strict=True)):
            raise AssertionError("a second backbone with the same state dict gives other features")


def _input_of(name: str) -> tuple[int, dict[str, Any]]:
    """Find the smallest input that timm's own network takes, with the option ``img_size`` if it helps."""
    default = own_size(name)
    plain: Any = timm.create_model(name).eval()
    reasons = ""
    for size in sorted({*(s for s in SIZES if s < default), default}):
        attempts: list[dict[str, Any]] = [{}, {"img_size": size}]
        for options in attempts:
            try:
                net: Any = timm.create_model(name, **options).eval() if options else plain
                with torch.no_grad():
                    maps = net.forward_intermediates(torch.randn(1, 3, size, size), intermediates_only=True)
            except Exception as error:
                reasons = f"{type(error).__name__}: {error}"
                continue
            if all(torch.isfinite(feature).all() for feature in maps):
                return size, options
    raise RuntimeError(f"timm's own network takes no input of up to {default} pixels ({reasons})")


def _verdict(row: Row) -> str:
    faults = []
    if not row.framewise < TOLERANCE:
        faults.append(f"frame-wise error {row.framewise:.1e}")
    if not row.leak < TOLERANCE:
        faults.append(f"time leaks {row.leak:.1e}")
    if not row.reach > TOLERANCE:
        faults.append("no temporal factor acts")
    if not row.dense < TOLERANCE:
        faults.append(f"error {row.dense:.1e} against the dense network at full rank")
    for title, names in (("temporal factors", row.temporal), ("parameters", row.parameters)):
        if names:
            faults.append(f"{len(names)} {title} without gradient: {', '.join(names[:3])}")
    return f"FAILED: {'; '.join(faults)}" if faults else "ok"


def _failure(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).strip().splitlines() or [""])[0]
    return f"FAILED: {type(error).__name__}: {first[:300]} ({Path(where.filename).name}:{where.lineno})"
