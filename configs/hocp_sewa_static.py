"""Stage 1, static: the image network on single frames of SEWA, from timm's ImageNet weights.

The result is the source of stages 2 and 3: ``tools/train.py configs/hocp_sewa.py --static-checkpoint BEST.pth``.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.sewa import test_dataloader, test_evaluator, train_dataloader, val_dataloader, val_evaluator
    from ._base_.default_runtime import (
        default_hooks,
        default_scope,
        env_cfg,
        load_from,
        log_level,
        log_processor,
        randomness,
        resume,
        visualizer,
    )
    from ._base_.models.hocp_resnet18 import model
    from ._base_.schedules.adamw_20e import auto_scale_lr, optim_wrapper, param_scheduler, test_cfg, train_cfg, val_cfg

# No temporal factors: every frame stands alone, whatever the length of the clip.
model.update(backbone=dict(temporal_kernel=1))
custom_hooks: list = [
    dict(type="hocp_mm.TransductionHook", source="timm", seed=0),
    # Several processes train as one with the whole batch.
    dict(type="hocp_mm.SyncNormHook"),
]

# Exact decoding starts at the beginning of the file, so single frames are dear: eight frames, one second apart, come
# from one pass. A video shorter than that fills up with frames that do not count.
train_dataloader["dataset"]["pipeline"][0].update(clip_len=8, frame_interval=25)
# Windows need no overlap where no frame sees another.
val_dataloader["dataset"].update(windows=dict(clip_len=16, stride=16))
test_dataloader["dataset"].update(windows=dict(clip_len=16, stride=16))
