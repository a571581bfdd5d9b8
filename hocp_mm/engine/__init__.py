"""What happens around training: hooks."""

from hocp_mm.engine.hooks import (
    NonFiniteHook,
    RankSelectionHook,
    StagedUnfreezeHook,
    SyncNormHook,
    TransductionHook,
)

__all__ = ["NonFiniteHook", "RankSelectionHook", "StagedUnfreezeHook", "SyncNormHook", "TransductionHook"]
