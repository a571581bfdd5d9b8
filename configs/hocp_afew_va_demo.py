"""``hocp_afew_va`` made small, on a synthetic set; ``make demo-afew-va`` gives the ``--static-checkpoint`` it needs."""

from mmengine.config import read_base

with read_base():
    from .hocp_afew_va import *
    from ._base_.datasets.small_clips import *

train_dataloader.update(batch_size=12, num_workers=1)
train_dataloader.update(dataset=dict(data_root="data/synthetic_afew_va", clips_per_video=5, pipeline=train_pipeline))
val_dataloader.update(num_workers=1, dataset=dict(data_root="data/synthetic_afew_va", pipeline=test_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))

stages = [
    dict(begin=0, train=[r"factors\.t$", r"\.motion\.", "^head"], norm_eval=True, lr_mult=1.0),
    dict(begin=2, train="all", norm_eval=False, lr_mult=0.6),
]
custom_hooks = [
    dict(type="hocp_mm.TransductionHook", source="timm", seed=0),  # one network for all folds: it saw other people
    dict(type="hocp_mm.StagedUnfreezeHook", stages=stages, by_epoch=True),
    dict(type="hocp_mm.SyncNormHook"),
]
optim_wrapper.update(optimizer=dict(lr=3e-3))
train_cfg.update(max_epochs=4)
warm_up.update(end=20)
cosine.update(T_max=4, end=4, convert_to_iter_based=True)
param_scheduler = [warm_up, cosine]
default_hooks.update(logger=dict(interval=5))
