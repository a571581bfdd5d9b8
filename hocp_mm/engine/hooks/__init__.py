"""Training hooks."""

from hocp_mm.engine.hooks.checkpoint_hook import CheckpointHook
from hocp_mm.engine.hooks.non_finite_hook import NonFiniteHook
from hocp_mm.engine.hooks.rank_selection_hook import RankSelectionHook
from hocp_mm.engine.hooks.staged_unfreeze_hook import StagedUnfreezeHook
from hocp_mm.engine.hooks.sync_norm_hook import SyncNormHook
from hocp_mm.engine.hooks.transduction_hook import TransductionHook

__all__ = [
    "CheckpointHook",
    "NonFiniteHook",
    "RankSelectionHook",
    "StagedUnfreezeHook",
    "SyncNormHook",
    "TransductionHook",
]
