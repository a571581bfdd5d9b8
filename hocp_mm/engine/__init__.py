"""What happens around training: hooks."""

from hocp_mm.engine.hooks import (
    CheckpointHook,
    NonFiniteHook,
    RankSelectionHook,
    StagedUnfreezeHook,
    SyncNormHook,
    TransductionHook,
)

__all__ = [
    "CheckpointHook",
    "NonFiniteHook",
    "RankSelectionHook",
    "StagedUnfreezeHook",
    "SyncNormHook",
    "TransductionHook",
]
