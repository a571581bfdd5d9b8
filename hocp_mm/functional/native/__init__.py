"""The compiled CPU kernel: sources, build, and the operators around it."""

from hocp_mm.functional.native.calls import Factors, PackedFactors, StepPlan, native_available, pack_factors
from hocp_mm.functional.native.operators import add_motion, fused_cp_conv

__all__ = [
    "Factors",
    "PackedFactors",
    "StepPlan",
    "add_motion",
    "fused_cp_conv",
    "native_available",
    "pack_factors",
]
