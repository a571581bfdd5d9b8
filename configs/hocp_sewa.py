"""Stages 2 and 3 on SEWA: transduction, then joint fine-tuning.

The source is timm's ImageNet network; better the checkpoint of stage 1 (``configs/hocp_sewa_static.py``):
``tools/train.py configs/hocp_sewa.py --static-checkpoint BEST.pth``.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.sewa import *
    from ._base_.default_runtime import *
    from ._base_.models.hocp_resnet18 import *
    from ._base_.schedules.adamw_20e import *

# Nothing until trained: an eye for what shows only in motion, in every layer that sees time.
model["backbone"].update(motion=dict(rank="x0.0625", rectifier="relu"))
optim_wrapper.update(optimizer=dict(lr=1e-3))
stages: list = [  # first the new parts, with the norm statistics of the image network; then everything at a lower rate
    dict(begin=0, train=[r"factors\.t$", r"\.motion\.", "^head"], norm_eval=True, lr_mult=1.0),
    dict(begin=8, train="all", norm_eval=False, lr_mult=0.1),
]
custom_hooks: list = [
    dict(type="hocp_mm.TransductionHook", source="timm", seed=0, calibrate=dict(batches=8), budget=0.25),
    dict(type="hocp_mm.StagedUnfreezeHook", stages=stages, by_epoch=True),
    dict(type="hocp_mm.SyncNormHook"),  # several processes train as one with the whole batch
]
find_unused_parameters = True  # frozen parameters get no gradient in stage 2
