"""Stages 2 and 3 on the synthetic set: ``hocp_sewa`` made small; needs ``--static-checkpoint``."""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa import (
        auto_scale_lr,
        custom_hooks,
        default_hooks,
        default_scope,
        env_cfg,
        find_unused_parameters,
        load_from,
        log_level,
        log_processor,
        model,
        optim_wrapper,
        param_scheduler,
        randomness,
        resume,
        test_cfg,
        test_dataloader,
        test_evaluator,
        train_cfg,
        train_dataloader,
        val_cfg,
        val_dataloader,
        val_evaluator,
        visualizer,
    )

# Numbers to tune: data, clips, image size, stages, epochs, rate.
train_dataloader.update(batch_size=4, num_workers=2)
val_dataloader.update(batch_size=8, num_workers=1)
test_dataloader.update(batch_size=8, num_workers=1)
train_dataloader["dataset"].update(data_root="data/synthetic_sewa", clips_per_video=4)
val_dataloader["dataset"].update(data_root="data/synthetic_sewa")
test_dataloader["dataset"].update(data_root="data/synthetic_sewa")
train_dataloader["dataset"]["pipeline"][1].update(size=72, cache_mb=1024)
train_dataloader["dataset"]["pipeline"][2].update(size=64)
val_dataloader["dataset"]["pipeline"][1].update(size=64)
test_dataloader["dataset"]["pipeline"][1].update(size=64)

custom_hooks[1]["stages"][1].update(begin=2, lr_mult=0.3)
train_cfg.update(max_epochs=6)
param_scheduler[0].update(end=10)
param_scheduler[1].update(T_max=6, end=6)
default_hooks.update(logger=dict(interval=5))
