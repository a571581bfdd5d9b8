"""The one entry point: look for each fault, cure what can be cured, refuse clearly what cannot."""

from hocp_mm.compat.checkpoint_loading import load_checkpoints_safely
from hocp_mm.compat.environment import check_opencv, check_setuptools, check_torchvision
from hocp_mm.compat.mmaction_wheel import skip_broken_multimodal, supply_missing_drn
from hocp_mm.compat.yapf_cache import import_yapf_without_cache

__all__ = ["apply"]

_CURES = (supply_missing_drn, skip_broken_multimodal)
_RUNNER_CURES = (load_checkpoints_safely, import_yapf_without_cache)
_applied: list[str] = []


def apply(training: bool = True) -> list[str]:
    """Check the installation and apply the work-arounds that it needs.

    Safe to call again: a cure is applied once. Imports OpenCV, and neither ``mmaction.models`` nor torchvision.

    Args:
        training: Mend also what ``mmengine.runner`` does, which is imported for it. Not needed where no runner is made
            and weights are read by ``hocp_mm.checkpoints`` alone.

    Returns:
        One line for each work-around in force in this process, for the log.

    Raises:
        HOCPError: If OpenCV, torchvision or setuptools is installed in a way that cannot work.
    """
    check_setuptools()
    check_opencv()
    check_torchvision()
    for cure in (*_CURES, *(_RUNNER_CURES if training else ())):
        line = cure()
        if line is not None:
            _applied.append(line)
    return list(_applied)
