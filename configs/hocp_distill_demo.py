"""``hocp_distill`` made small, on synthetic videos; ``python -m benchmarks.teaching`` makes them and what it needs."""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa_demo import *
    from ._base_.datasets.taught_videos import *
    from ._base_.datasets.small_clips import *

root = "data/synthetic_teaching/some"
train = dict(data_root=f"{root}/videos", labels_root=f"{root}/labels", clips_per_video=9, pipeline=train_pipeline)
train_dataloader.update(batch_size=12, num_workers=1, dataset=train)
people = dict(data_root=f"{root}/people", faces="frame", pipeline=test_pipeline)
val_dataloader.update(num_workers=1, dataset=people)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))
del root, train, people
