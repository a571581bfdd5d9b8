"""Several processes on a machine without a GPU."""

import os
from typing import Any

import torch
import torch.distributed

from hocp_mm.errors import HOCPError

__all__ = ["init_distributed"]

TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init_distributed(launcher: str, cfg: Any) -> None:
    """Prepare MMEngine's Runner for several CPU processes; with a GPU, or without a launcher, do nothing.

    Fault: MMEngine calls ``torch.cuda.set_device`` whatever the backend (``mmengine/dist/utils.py``), and gives
        DistributedDataParallel ``device_ids``, which it refuses for modules on a CPU.
    Where: MMEngine 0.10.7 and 0.11.0rc3.
    Cure: start the gloo process group first, since the Runner skips its own start then, and set the wrapper to
        ``device_ids=None``.
    Source: https://github.com/open-mmlab/mmengine/blob/main/mmengine/dist/utils.py

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``, as the Runner takes it.
        cfg: The Runner's config (``mmengine.Config``); ``env_cfg.dist_cfg.backend`` and ``model_wrapper_cfg`` are
            set in place.

    Raises:
        HOCPError: For slurm and mpi without a GPU, and if the variables of torchrun are missing.
    """
    if launcher == "none" or torch.cuda.is_available():
        return
    if launcher != "pytorch":
        raise HOCPError(f"init_distributed: without a GPU only launcher 'pytorch' (torchrun) works, got {launcher!r}.")
    if not torch.distributed.is_initialized():
        missing = [name for name in TORCHRUN_VARIABLES if name not in os.environ]
        if missing:
            raise HOCPError(
                f"init_distributed: launcher 'pytorch' needs what torchrun sets, {', '.join(missing)} missing;"
                " start with: torchrun --nproc-per-node 2 tools/train.py CONFIG --launcher pytorch"
            )
        torch.distributed.init_process_group("gloo")
    wrapper = {"type": "MMDistributedDataParallel", "broadcast_buffers": False}
    wrapper["find_unused_parameters"] = cfg.get("find_unused_parameters", False)
    wrapper |= {**(cfg.get("model_wrapper_cfg") or {}), "device_ids": None}
    cfg.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo", "model_wrapper_cfg": wrapper})
