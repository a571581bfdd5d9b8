"""Stages 2 and 3 on the synthetic set: ``hocp_afew_va`` made small; needs ``--static-checkpoint``.

``make demo-afew-va`` shows the way there. One image network serves all folds: it was trained on other people.
"""

from mmengine.config import read_base

with read_base():
    from .hocp_afew_va import (
        auto_scale_lr,
        custom_hooks,
        default_hooks,
        default_scope,
        env_cfg,
        find_unused_parameters,
        fold,
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

# Numbers to tune: data, clips, image size, augmentation, epochs, rate.
train_dataloader.update(batch_size=12, num_workers=1)
val_dataloader.update(batch_size=8, num_workers=1)
test_dataloader.update(batch_size=8, num_workers=1)
train_dataloader["dataset"].update(data_root="data/synthetic_afew_va", clips_per_video=5)
val_dataloader["dataset"].update(data_root="data/synthetic_afew_va")
test_dataloader["dataset"].update(data_root="data/synthetic_afew_va")
train_dataloader["dataset"]["pipeline"][1].update(size=54, cache_mb=1024)
train_dataloader["dataset"]["pipeline"][2].update(size=48, scale=(0.55, 1.0))
# From scratch on a few dozen people: without strong changes of colour the network remembers who felt what.
train_dataloader["dataset"]["pipeline"][4].update(brightness=0.5, contrast=0.5, saturation=0.8)
val_dataloader["dataset"]["pipeline"][1].update(size=48)
test_dataloader["dataset"]["pipeline"][1].update(size=48)

optim_wrapper.update(optimizer=dict(lr=3e-3))
custom_hooks[1]["stages"][1].update(begin=2, lr_mult=0.6)
train_cfg.update(max_epochs=4)
param_scheduler[0].update(end=20)
param_scheduler[1].update(T_max=4, end=4, convert_to_iter_based=True)
default_hooks.update(logger=dict(interval=5))
