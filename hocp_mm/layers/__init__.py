"""Modules that hold CP factors, and surgery on module trees; needs torch only."""

from hocp_mm.layers.calibration import input_moments, output_moments
from hocp_mm.layers.complexity import Complexity, LayerComplexity, complexity
from hocp_mm.layers.cp_conv import HOCPConv1d, HOCPConv2d, HOCPConv3d
from hocp_mm.layers.distillation import distill_
from hocp_mm.layers.exporting import exportable
from hocp_mm.layers.gate import SqueezeExcitation
from hocp_mm.layers.merging import merge_dense_
from hocp_mm.layers.motion import MotionComponents
from hocp_mm.layers.options import FitReport
from hocp_mm.layers.rank_allocation import allocate_ranks
from hocp_mm.layers.rank_matching import match_ranks_
from hocp_mm.layers.rank_selection import normalize_factors_, prune_ranks_, shrink_weights_
from hocp_mm.layers.reconstruction import Reconstruction, reconstruct_
from hocp_mm.layers.selection import name_matcher
from hocp_mm.layers.surgery import Motion, add_motion_, factorize_, freeze_all_but_, transduct_
from hocp_mm.layers.synced_norm import sync_norms_
from hocp_mm.layers.temporal import FrameAxis, FrameFoldedConv2d, FrameFoldedHOCPConv2d

__all__ = [
    "Complexity",
    "FitReport",
    "FrameAxis",
    "FrameFoldedConv2d",
    "FrameFoldedHOCPConv2d",
    "HOCPConv1d",
    "HOCPConv2d",
    "HOCPConv3d",
    "LayerComplexity",
    "Motion",
    "MotionComponents",
    "Reconstruction",
    "SqueezeExcitation",
    "add_motion_",
    "allocate_ranks",
    "complexity",
    "distill_",
    "exportable",
    "factorize_",
    "freeze_all_but_",
    "input_moments",
    "match_ranks_",
    "merge_dense_",
    "name_matcher",
    "normalize_factors_",
    "output_moments",
    "prune_ranks_",
    "reconstruct_",
    "shrink_weights_",
    "sync_norms_",
    "transduct_",
]
