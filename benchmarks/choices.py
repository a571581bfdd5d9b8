"""How much slower ``implementation='auto'`` is than the best fixed form, over layers that differ in every respect."""

import itertools

import torch

from benchmarks.timing import inference, interleaved
from hocp_mm.layers import HOCPConv1d, HOCPConv2d, HOCPConv3d

FORMS = ("factorized", "mobilenet", "fused", "reconstructed", "auto")
LAYERS = {
    "1-D, 128 ch, 8 x 512": (HOCPConv1d, 128, (8, 128, 512)),
    "2-D, 64 ch, 8 x 28 x 28": (HOCPConv2d, 64, (8, 64, 28, 28)),
    "2-D, 256 ch, 8 x 14 x 14": (HOCPConv2d, 256, (8, 256, 14, 14)),
    "3-D, 64 ch, 8 x 28 x 28": (HOCPConv3d, 64, (1, 64, 8, 28, 28)),
    "3-D, 256 ch, 8 x 7 x 7": (HOCPConv3d, 256, (1, 256, 8, 7, 7)),
}
EXPANSIONS = (1, 3, 6)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def measure(device: str, seconds: float) -> list[tuple[str, int, str, str, float, float]]:
    """Time all forms of every layer.

    Returns:
        Rows (layer, expansion, dtype, best fixed form, its milliseconds, milliseconds of auto).
    """
    rows = []
    for (layer, (cls, channels, shape)), expansion, dtype in itertools.product(LAYERS.items(), EXPANSIONS, DTYPES):
        x = torch.randn(shape, device=device, dtype=DTYPES[dtype])
        modules = {
            form: cls(channels, channels, 3, padding=1, rank=expansion * channels, implementation=form)
            for form in FORMS
        }
        steps = {form: inference(m.to(device=device, dtype=DTYPES[dtype]), x) for form, m in modules.items()}
        times = interleaved(steps, seconds=seconds, device=device, twice=True)
        auto = times.pop("auto")
        best = min(times, key=lambda form: times[form])
        rows.append((layer, expansion, dtype, best, times[best], auto))
    return rows
