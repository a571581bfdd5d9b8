"""Training hooks."""

from hocp_mm.engine.hooks.staged_unfreeze_hook import StagedUnfreezeHook
from hocp_mm.engine.hooks.transduction_hook import TransductionHook

__all__ = ["StagedUnfreezeHook", "TransductionHook"]
