"""The mathematics as pure functions; needs torch only."""

from hocp_mm.functional.agreement import ccc, pcc, rmse, sagr
from hocp_mm.functional.cp import CPKernel, balance, dense_kernel, mode_names
from hocp_mm.functional.cp_conv import Implementation, cp_conv
from hocp_mm.functional.decompose import Decomposition, decompose
from hocp_mm.functional.frame_folded import cp_conv_folded, fold_frames, temporal_depthwise, unfold_frames
from hocp_mm.functional.rank import RankLike, resolve_rank
from hocp_mm.functional.transduct import Init, temporal_taps, transduct

__all__ = [
    "CPKernel",
    "Decomposition",
    "Implementation",
    "Init",
    "RankLike",
    "balance",
    "ccc",
    "cp_conv",
    "cp_conv_folded",
    "decompose",
    "dense_kernel",
    "fold_frames",
    "mode_names",
    "pcc",
    "resolve_rank",
    "rmse",
    "sagr",
    "temporal_depthwise",
    "temporal_taps",
    "transduct",
    "unfold_frames",
]
