"""Aff-Wild2: clips of 16 frames for training, sliding windows over whole videos for validation.

The labels of the test part are not given out, so the test loader is the validation part again. Crops are the ones of
the release (112 x 112), taken as they are. Leaves change numbers by position: a training pipeline is [sample, load,
crop, flip, colour, pack], a test pipeline [sample, load, pack].
"""

train_dataloader: dict = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="hocp_mm.AffWild2Dataset",
        data_root="data/Aff-Wild2",
        split="train",
        images=("cropped_aligned", "cropped_aligned_new_50_vids"),
        clips_per_video=32,
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="random"),
            dict(type="hocp_mm.LoadFaceClip", size=124),
            dict(type="hocp_mm.RandomResizedClipCrop", size=112, scale=(0.7, 1.0)),
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
        type="hocp_mm.AffWild2Dataset",
        data_root="data/Aff-Wild2",
        split="val",
        images=("cropped_aligned", "cropped_aligned_new_50_vids"),
        test_mode=True,
        windows=dict(clip_len=16, stride=8),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=112),
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
        type="hocp_mm.AffWild2Dataset",
        data_root="data/Aff-Wild2",
        split="val",
        images=("cropped_aligned", "cropped_aligned_new_50_vids"),
        test_mode=True,
        windows=dict(clip_len=16, stride=8),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=112),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

val_evaluator: dict = dict(type="hocp_mm.AffectMetric")
test_evaluator: dict = dict(type="hocp_mm.AffectMetric")
