"""The compiled CPU kernel: sources, build, and the operators around it."""

from hocp_mm.functional.native.calls import Factors, PackedFactors, native_available, pack_factors, run_step
from hocp_mm.functional.native.operators import add_motion, fused_cp_conv

__all__ = [
    "Factors",
    "PackedFactors",
    "add_motion",
    "fused_cp_conv",
    "native_available",
    "pack_factors",
    "run_step",
]
