"""Stage 1, static: the image network on single frames of SEWA, from timm's ImageNet weights.

The result is the source of stages 2 and 3: ``tools/train.py configs/hocp_sewa.py --static-checkpoint BEST.pth``.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.sewa_frames import *
    from ._base_.default_runtime import *
    from ._base_.models.hocp_resnet18 import *
    from ._base_.schedules.adamw_20e import *

# No temporal factors: every frame stands alone, whatever the length of the clip.
model.update(backbone=dict(temporal_kernel=1))
custom_hooks: list = [
    dict(type="hocp_mm.TransductionHook", source="timm", seed=0, calibrate=dict(batches=8), budget=0.25),
    dict(type="hocp_mm.SyncNormHook"),  # several processes train as one with the whole batch
]
