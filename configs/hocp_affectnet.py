"""Stage 1, static: the image network on AffectNet, valence and arousal with expressions, from timm's ImageNet weights.

The result is the source of stages 2 and 3: ``tools/train.py configs/hocp_sewa.py --static-checkpoint BEST.pth``. The
video network has no expressions; the load report lists their layer under ``classifier``.

Expressions are far from equally frequent in training and equally frequent in validation; the loss weighs a class by one
over the square root of its number. To show rare classes more often instead, wrap the data set:
``train_dataloader.dataset = dict(type="mmengine.ClassBalancedDataset", oversample_thr=0.125, dataset=…)``.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.affectnet import (
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

model.update(
    # No temporal factors: there is one frame.
    backbone=dict(temporal_kernel=1),
    head=dict(
        num_expressions=8,
        expression_weight=0.5,
        # For 74874, 134415, 25459, 14090, 6378, 3803, 24882 and 3750 images (the 287651 of the release), mean 1.
        class_weights=(0.82, 0.61, 1.41, 1.89, 2.82, 3.65, 1.43, 3.67),
    ),
)
custom_hooks: list = [
    dict(type="hocp_mm.TransductionHook", source="timm", seed=0),
    # Several processes train as one with the whole batch.
    dict(type="hocp_mm.SyncNormHook"),
]

# The rate of the schedule is meant for some 128 frames a step.
auto_scale_lr.update(base_batch_size=128)
default_hooks.update(logger=dict(interval=100))
