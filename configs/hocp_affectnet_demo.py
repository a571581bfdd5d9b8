"""``hocp_affectnet`` made small, on a synthetic set of the same layout, and from scratch (a demo downloads nothing)."""

from mmengine.config import read_base

with read_base():
    from .hocp_affectnet import (
        auto_scale_lr,
        custom_hooks,
        default_hooks,
        default_scope,
        env_cfg,
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

# Numbers to tune: data, image size, augmentation, epochs, rate.
train_dataloader.update(batch_size=64, num_workers=1)
val_dataloader.update(batch_size=64, num_workers=1)
test_dataloader.update(batch_size=64, num_workers=1)
train_dataloader["dataset"].update(data_root="data/synthetic_affectnet")
val_dataloader["dataset"].update(data_root="data/synthetic_affectnet")
test_dataloader["dataset"].update(data_root="data/synthetic_affectnet")
train_dataloader["dataset"]["pipeline"][1].update(size=54)
train_dataloader["dataset"]["pipeline"][2].update(size=48, scale=(0.55, 1.0))
# From scratch on a few hundred people: without strong changes of colour the network remembers who felt what.
train_dataloader["dataset"]["pipeline"][4].update(brightness=0.5, contrast=0.5, saturation=0.8)
val_dataloader["dataset"]["pipeline"][1].update(size=48)
test_dataloader["dataset"]["pipeline"][1].update(size=48)

custom_hooks = []
optim_wrapper.update(optimizer=dict(lr=3e-3))
train_cfg.update(max_epochs=14, val_interval=2)
param_scheduler[0].update(end=20)
param_scheduler[1].update(T_max=14, end=14, convert_to_iter_based=True)
default_hooks.update(logger=dict(interval=5))
