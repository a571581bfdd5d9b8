"""What happens around training: hooks."""

from hocp_mm.engine.hooks import RankSelectionHook, StagedUnfreezeHook, SyncNormHook, TransductionHook

__all__ = ["RankSelectionHook", "StagedUnfreezeHook", "SyncNormHook", "TransductionHook"]
