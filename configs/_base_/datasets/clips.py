"""What all sets share: random clips of 16 frames for training, sliding windows for validation and test, the metric.

Clips are sampled by time, 25 frames a second whatever the rate of a video, and a quarter of those of training hold
every second frame: the network knows the motion of cameras from 12.5 to 25 frames a second, and of all faster ones.

A set names its files and says what differs. A number inside of a pipeline is changed by giving the whole pipeline anew,
under its name, to the loaders: ``train_dataloader.update(dataset=dict(pipeline=train_pipeline))``. Names that no child
takes up are deleted: a dump should hold nothing but what is in use.
"""

train_pipeline: list = [
    dict(type="hocp_mm.SampleClip", clip_len=16, fps=25, mode="random", hold=(2,)),
    dict(type="hocp_mm.LoadFaceClip", size=176, margin=1.5),
    dict(type="hocp_mm.RandomResizedClipCrop", size=160, scale=(0.7, 1.0)),
    dict(type="hocp_mm.ClipFlip", p=0.5),
    dict(type="hocp_mm.ClipColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
    dict(type="hocp_mm.PackAffectInputs"),
]
test_pipeline: list = [
    dict(type="hocp_mm.SampleClip", clip_len=16, fps=25, mode="window"),
    dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5, cache_mb=256),
    dict(type="hocp_mm.PackAffectInputs"),
]

train_dataloader: dict = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(split="train", pipeline=train_pipeline),
)
val_dataloader: dict = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(split="val", test_mode=True, windows=dict(clip_len=16, stride=8), pipeline=test_pipeline),
)

val_evaluator: dict = dict(type="hocp_mm.AffectMetric")
test_evaluator = val_evaluator
