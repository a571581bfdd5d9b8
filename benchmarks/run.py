"""Measure and write ``benchmarks/results``: ``python -m benchmarks.run [sections] [--device cpu|cuda] [--dtype ...]``.

Each section keeps its numbers in a small JSON file, so that one of them can be measured again; the Markdown page and
the plot are made from all that are there. Close other programs first: on two cores a busy neighbour changes every
number.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    choices,
    data_throughput,
    decomposition,
    exporting,
    layers,
    networks,
    peers,
    starts,
    streaming,
    videos,
)
from benchmarks.contenders import cp_layer, tltorch_layer
from benchmarks.report import write_report

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--seconds", type=float, default=15, help="spent on one row of a table, about (default 15)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"sections must be of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    torch.manual_seed(0)
    name = f"{args.device.split(':')[0]}_{args.dtype}"
    args.output.mkdir(parents=True, exist_ok=True)
    _keep(args.output / f"{name}-machine.json", {"text": _machine(args.device)})
    for section in args.sections or SECTIONS:
        print(f"== {section}", file=sys.stderr, flush=True)
        _keep(
            args.output / f"{name}-{section}.json",
            SECTIONS[section](args.device, getattr(torch, args.dtype), args.seconds),
        )
    print(write_report(args.output, name).read_text())


def _layers(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return [
        asdict(result)
        for training in (False, True)
        for expansion in (1, 3)
        for result in layers.measure(expansion, training, device, dtype, seconds)
    ]


def _memory(device: str, dtype: torch.dtype, seconds: float) -> Any:
    rows = []
    for channels, size in layers.STAGES.items():
        x = torch.randn(1, channels, layers.FRAMES, size, size, device=device, dtype=dtype)
        modules = {
            layers.DENSE: torch.nn.Conv3d(channels, channels, 3, padding=1),
            **{f"tltorch {f}": tltorch_layer(channels, channels, f) for f in ("factorized", "mobilenet")},
            **{f"ours {f}": cp_layer(channels, channels, f) for f in ("auto", "mobilenet")},
            "ours mobilenet, recompute": cp_layer(channels, channels, "mobilenet"),
        }
        modules["ours mobilenet, recompute"].recompute = True
        kept = {name: layers.saved_bytes(m.to(device=device, dtype=dtype), x) for name, m in modules.items()}
        rows.append({"channels": channels, "size": size, "rank": channels, "bytes": kept})
    return rows


def _networks(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return [
        {"network": name, "rank": rank, "training": training,
         "times": networks.measure(name, rank, training, device, dtype, 2 * seconds)}
        for training in (False, True)
        for name, rank in (*((n, "x1") for n in networks.NAMES), ("resnet18", "x3"))
    ]  # fmt: skip


def _motion(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return networks.measure_motion(device, dtype, seconds)


def _choices(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return choices.measure(device, seconds)


def _fits(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return {"networks": decomposition.network_rows(("resnet18", "resnet50")), "kernels": decomposition.kernel_rows()}


def _starts(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return starts.measure(("resnet18", "resnet50"))


def _data(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return data_throughput.measure(8 * seconds)


def _video(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return videos.measure(2 * seconds)


def _export(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return exporting.measure(seconds)


def _peers(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return peers.measure(2 * seconds)


def _streaming(device: str, dtype: torch.dtype, seconds: float) -> Any:
    return streaming.measure(seconds)


SECTIONS: dict[str, Callable[[str, torch.dtype, float], Any]] = {
    "layers": _layers,
    "memory": _memory,
    "networks": _networks,
    "motion": _motion,
    "choices": _choices,
    "fits": _fits,
    "starts": _starts,
    "data": _data,
    "video": _video,
    "streaming": _streaming,
    "export": _export,
    "peers": _peers,
}


def _machine(device: str) -> str:
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}."
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), processor)
    return f"{processor}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}."


def _keep(path: Path, numbers: Any) -> None:
    path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
