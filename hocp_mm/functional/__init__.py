"""The mathematics as pure functions; needs torch only."""

from hocp_mm.functional.agreement import ccc, pcc, rmse, sagr
from hocp_mm.functional.choice import Implementation
from hocp_mm.functional.cost import Cost, conv_cost, linear_cost, paper_flops
from hocp_mm.functional.cp import CPKernel, balance, component_norms, dense_kernel, mode_names
from hocp_mm.functional.cp_conv import cp_conv
from hocp_mm.functional.decompose import Decomposition, decompose, decompose_to_error
from hocp_mm.functional.frame_folded import cp_conv_folded, fold_frames, temporal_depthwise, unfold_frames
from hocp_mm.functional.native import native_available
from hocp_mm.functional.order_four import conv4d
from hocp_mm.functional.rank import RankLike, resolve_rank, spend_budget
from hocp_mm.functional.rank_estimate import error_curve, estimate_rank, evbmf, sufficient_rank
from hocp_mm.functional.sparsity import normalize, prune, soft_threshold
from hocp_mm.functional.transduct import Init, temporal_taps, transduct

__all__ = [
    "CPKernel",
    "Cost",
    "Decomposition",
    "Implementation",
    "Init",
    "RankLike",
    "balance",
    "ccc",
    "component_norms",
    "conv4d",
    "conv_cost",
    "cp_conv",
    "cp_conv_folded",
    "decompose",
    "decompose_to_error",
    "dense_kernel",
    "error_curve",
    "estimate_rank",
    "evbmf",
    "fold_frames",
    "linear_cost",
    "mode_names",
    "native_available",
    "normalize",
    "paper_flops",
    "pcc",
    "prune",
    "resolve_rank",
    "rmse",
    "sagr",
    "soft_threshold",
    "spend_budget",
    "sufficient_rank",
    "temporal_depthwise",
    "temporal_taps",
    "transduct",
    "unfold_frames",
]
