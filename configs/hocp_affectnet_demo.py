"""``hocp_affectnet`` made small, on a synthetic set of the same layout, and from scratch (a demo downloads nothing)."""

from mmengine.config import read_base

with read_base():
    from .hocp_affectnet import *
    from ._base_.datasets.small_images import *

data_root = "data/synthetic_affectnet"
train_dataloader.update(batch_size=64, num_workers=1, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader.update(batch_size=64, num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
del data_root

custom_hooks = []
optim_wrapper.update(optimizer=dict(lr=3e-3))
train_cfg.update(max_epochs=14, val_interval=2)
warm_up.update(end=20)
cosine.update(T_max=14, end=14, convert_to_iter_based=True)
param_scheduler = [warm_up, cosine]
default_hooks.update(logger=dict(interval=5))
