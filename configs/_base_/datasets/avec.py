"""AVEC 2017 to 2019 (cross-cultural emotion): clips of 16 frames for training, windows over whole recordings for test.

Labels are given out for Train and Devel only, so Devel is validation and test. Pictures come from the SEWA data base,
see ``AVECDataset``. Whole frames are shown here; a face fills little of a chat's picture, so better give boxes to each
of the three data sets: ``faces="given", boxes_file="boxes.json"``.

Labels lag behind the face, as raters of a running video react after seeing; the baseline of 2019 took 2 s. Nothing is
shifted here: ``dict(type="hocp_mm.CompensateLabelDelay", seconds=2.0)`` in front of all three pipelines does, with
seconds chosen on Devel.

Leaves change numbers by position: a training pipeline is [sample, load, crop, flip, colour, pack], a test pipeline
[sample, load, pack].
"""

train_dataloader: dict = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="hocp_mm.AVECDataset",
        data_root="data/AVEC2019",
        split="train",
        join="linear",
        faces="frame",
        # Two to three minutes each: as many clips of one as of several of SEWA's segments.
        clips_per_video=48,
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="random"),
            dict(type="hocp_mm.LoadFaceClip", size=176, margin=1.5),
            dict(type="hocp_mm.RandomResizedClipCrop", size=160, scale=(0.7, 1.0)),
            dict(type="hocp_mm.ClipFlip", p=0.5),
            dict(type="hocp_mm.ClipColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

val_dataloader: dict = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="hocp_mm.AVECDataset",
        data_root="data/AVEC2019",
        split="val",
        join="linear",
        faces="frame",
        test_mode=True,
        windows=dict(clip_len=16, stride=8),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5, cache_mb=512),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

test_dataloader: dict = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="hocp_mm.AVECDataset",
        data_root="data/AVEC2019",
        split="val",
        join="linear",
        faces="frame",
        test_mode=True,
        windows=dict(clip_len=16, stride=8),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5, cache_mb=512),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

val_evaluator: dict = dict(type="hocp_mm.AffectMetric")
test_evaluator: dict = dict(type="hocp_mm.AffectMetric")
