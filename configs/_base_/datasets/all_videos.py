"""SEWA, AFEW-VA and Aff-Wild2 together: clips of 16 frames for training, windows over whole videos of all three.

What a set says of itself is as in its own file, but for the crops of Aff-Wild2, which get the size of the others. The
network sees each set in its share of the clips, however large it is. Labels of Aff-Wild2's test part are not given out,
so its validation part is tested again.
"""

from mmengine.config import read_base

with read_base():
    from .afew_va import *  # its `fold`, too: the other two have official parts

sewa = dict(type="hocp_mm.SEWADataset", data_root="data/SEWAv02", labels="V", faces="landmarks")
affwild2 = dict(
    type="hocp_mm.AffWild2Dataset",
    data_root="data/Aff-Wild2",
    images=("cropped_aligned", "cropped_aligned_new_50_vids"),
)
train = dict(split="train", pipeline=train_pipeline)
windows = dict(test_mode=True, windows=dict(clip_len=16, stride=8), pipeline=test_pipeline)
val, test = dict(windows, split="val"), dict(windows, split="test")
train_dataloader = dict(
    train_dataloader,
    sampler=dict(type="hocp_mm.ShareSampler", shares=(0.4, 0.2, 0.4)),
    dataset=dict(
        type="mmengine.ConcatDataset",
        datasets=[
            dict(sewa, **train, clips_per_video=8),
            train_dataloader["dataset"],
            dict(affwild2, **train, clips_per_video=32),
        ],
    ),
)
val_dataloader = dict(
    val_dataloader,
    dataset=dict(
        type="mmengine.ConcatDataset",
        datasets=[dict(sewa, **val), val_dataloader["dataset"], dict(affwild2, **val)],
    ),
)
test_dataloader = dict(
    test_dataloader,
    dataset=dict(
        type="mmengine.ConcatDataset",
        datasets=[dict(sewa, **test), test_dataloader["dataset"], dict(affwild2, **val)],
    ),
)
del sewa, affwild2, train, windows, val, test
