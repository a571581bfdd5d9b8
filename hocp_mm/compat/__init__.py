"""Work-arounds for faults of the OpenMMLab stack, in one place, applied only where the fault is present.

Call :func:`apply` before building anything from MMEngine or MMAction2; the tools do. Each work-around is one small
function whose docstring names fault, versions, cure and source:

===========================  ============================================================================
``environment``              OpenCV without libGL, torchvision that does not fit torch, missing setuptools
``mmaction_wheel``           ``mmaction.models`` that cannot be imported
``checkpoint_loading``       MMEngine's checkpoint loader: fails on torch >= 2.6, or executes the file
``distributed``              several processes on CPUs (gloo)
``mixed_precision``          ``--amp`` on CPUs: ``hocp_mm.CPUAmpOptimWrapper``
``sharding``                 FSDP in the ordinary Runner: ``hocp_mm.ShardHook``
===========================  ============================================================================

Cured by the declared requirements alone: mmaction2 1.2.0 imports ``importlib_metadata`` without asking for it.
"""

from hocp_mm.compat.distributed import init_distributed
from hocp_mm.compat.workarounds import apply

__all__ = ["apply", "init_distributed"]
