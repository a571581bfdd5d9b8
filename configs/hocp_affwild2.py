"""Stages 2 and 3 on Aff-Wild2, official parts: transduction, then joint fine-tuning.

Stage 2 (epochs 0 - 7) trains the temporal factors, the temporal neck and the head, with the norm statistics of the
image network; stage 3 trains everything at a lower rate. The source is timm's ImageNet network; better the checkpoint
of stage 1: ``tools/train.py configs/hocp_affwild2.py --static-checkpoint BEST.pth``. Headline of the challenge: the
mean of both CCCs over all valid frames of the validation part (``affect/ccc_mean``).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.affwild2 import (
        test_dataloader,
        test_evaluator,
        train_dataloader,
        val_dataloader,
        val_evaluator,
    )
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

# Identity until trained: an eye for what shows only in motion.
model.update(neck=dict(type="hocp_mm.HOCPTemporalNeck"))
optim_wrapper.update(optimizer=dict(lr=1e-3))

custom_hooks: list = [
    dict(type="hocp_mm.TransductionHook", source="timm", seed=0),
    dict(
        type="hocp_mm.StagedUnfreezeHook",
        stages=[
            dict(begin=0, train=[r"factors\.t$", "^neck", "^head"], norm_eval=True, lr_mult=1.0),
            dict(begin=8, train="all", norm_eval=False, lr_mult=0.1),
        ],
        by_epoch=True,
    ),
    # Several processes train as one with the whole batch.
    dict(type="hocp_mm.SyncNormHook"),
]

# Frozen parameters get no gradient in stage 2.
find_unused_parameters = True
