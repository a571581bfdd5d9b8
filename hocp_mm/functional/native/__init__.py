"""The compiled CPU kernel: sources, build, and the operators around it."""

from hocp_mm.functional.native.calls import native_available
from hocp_mm.functional.native.operators import add_motion, fused_cp_conv

__all__ = ["add_motion", "fused_cp_conv", "native_available"]
