"""What happens around training: hooks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """Import the hooks when one is asked for: they bring MMEngine's Runner, and inference needs ``wrapping`` alone."""
    if name in __all__:
        from hocp_mm.engine import hooks

        return getattr(hooks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
