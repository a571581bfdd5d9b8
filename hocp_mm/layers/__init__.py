"""Modules that hold CP factors, and surgery on module trees; needs torch only."""

from hocp_mm.layers.cp_conv import HOCPConv1d, HOCPConv2d, HOCPConv3d
from hocp_mm.layers.surgery import factorize_, freeze_all_but_, name_matcher, transduct_
from hocp_mm.layers.temporal import FrameAxis, FrameFoldedConv2d, FrameFoldedHOCPConv2d

__all__ = [
    "FrameAxis",
    "FrameFoldedConv2d",
    "FrameFoldedHOCPConv2d",
    "HOCPConv1d",
    "HOCPConv2d",
    "HOCPConv3d",
    "factorize_",
    "freeze_all_but_",
    "name_matcher",
    "transduct_",
]
