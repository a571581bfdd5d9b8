"""What happens around training: hooks."""

from hocp_mm.engine.hooks import StagedUnfreezeHook, TransductionHook

__all__ = ["StagedUnfreezeHook", "TransductionHook"]
