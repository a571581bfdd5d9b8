"""Time from which training could begin: the hook that loads and decomposes, with and without what the last start kept.

Every start is a process of its own, as it is for a user.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch

from hocp_mm.engine import TransductionHook
from hocp_mm.models import TimmHOCPBackbone


def measure(names: tuple[str, ...]) -> list[dict[str, float | str | int]]:
    """Start twice from a file of random weights at R = C_in, the second time with the kept decompositions.

    Returns:
        One row per network: name, layers, seconds of the hook in the first and the second start, and of both whole
        processes.
    """
    rows: list[dict[str, float | str | int]] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "image.pth"
            torch.save(timm.create_model(name).state_dict(), weights)
            environment = {**os.environ, "HOCP_MM_CACHE": folder}
            command = [sys.executable, "-m", "benchmarks.starts", name, str(weights)]
            first, second = (_run(command, environment) for _ in range(2))
        rows.append(
            {
                "network": name, "layers": first["layers"], "first": first["hook"], "second": second["hook"],
                "first_process": first["process"], "second_process": second["process"],
            }
        )  # fmt: skip
    return rows


def _run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    start = time.perf_counter()
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return {**json.loads(printed.splitlines()[-1]), "process": time.perf_counter() - start}


def _start(name: str, weights: str) -> None:
    """Be one start."""
    model = torch.nn.Module()
    model.backbone = TimmHOCPBackbone(name)
    start = time.perf_counter()
    report = TransductionHook(weights).load(model)
    print(json.dumps({"hook": time.perf_counter() - start, "layers": len(report.decomposed)}))


if __name__ == "__main__":
    _start(*sys.argv[1:])
