"""How much slower ``implementation='auto'`` is than the best fixed form, over layers that differ in every respect."""

import itertools
from typing import Any

import torch

from benchmarks.timing import inference, interleaved
from hocp_mm.functional import choice
from hocp_mm.layers import HOCPConv1d, HOCPConv2d, HOCPConv3d

FORMS = ("factorized", "mobilenet", "fused", "reconstructed")
LAYERS = {
    "1-D, 128 ch, 8 x 512": (HOCPConv1d, 128, (8, 128, 512)),
    "2-D, 64 ch, 8 x 28 x 28": (HOCPConv2d, 64, (8, 64, 28, 28)),
    "2-D, 256 ch, 8 x 14 x 14": (HOCPConv2d, 256, (8, 256, 14, 14)),
    "3-D, 64 ch, 8 x 28 x 28": (HOCPConv3d, 64, (1, 64, 8, 28, 28)),
    "3-D, 256 ch, 8 x 7 x 7": (HOCPConv3d, 256, (1, 256, 8, 7, 7)),
}
EXPANSIONS = (1, 3, 6)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def measure(device: str, seconds: float) -> list[tuple[str, int, str, str, str, float, float]]:
    """Time the fixed forms of every layer, and ask ``'auto'`` which it takes.

    A call of ``'auto'`` is a call of the form it picks, so that form's own time stands for it: timed as a contender of
    its own, the same code differs by up to a fifth in runs of a millisecond.

    Returns:
        Rows (layer, expansion, dtype, best fixed form, form that auto picks, their milliseconds).
    """
    rows = []
    for (layer, (cls, channels, shape)), expansion, dtype in itertools.product(LAYERS.items(), EXPANSIONS, DTYPES):
        x = torch.randn(shape, device=device, dtype=DTYPES[dtype])
        options = {"padding": 1, "rank": expansion * channels, "device": device, "dtype": DTYPES[dtype]}
        picked = picks(cls(channels, channels, 3, **options), x)
        fused = picked == "fused" or (dtype == "float32" and device == "cpu")
        steps = {
            form: inference(cls(channels, channels, 3, **options, implementation=form), x)
            for form in FORMS
            if form != "fused" or fused  # elsewhere it is the same as 'mobilenet'
        }
        times = interleaved(steps, seconds=seconds, device=device, twice=True)
        best = min(times, key=lambda form: times[form])
        rows.append((layer, expansion, dtype, best, picked, times[best], times[picked]))
    return rows


def picks(layer: torch.nn.Module, x: torch.Tensor) -> str:
    """Ask a layer with ``implementation='auto'`` which form it takes."""
    seen: list[str] = []
    choose = choice.choose_form

    def note(*args: Any, **options: Any) -> choice.Form:
        seen.append(choose(*args, **options))
        return seen[-1]

    choice.choose_form = note
    try:
        with torch.inference_mode():
            layer(x)
    finally:
        choice.choose_form = choose
    return seen[0]
