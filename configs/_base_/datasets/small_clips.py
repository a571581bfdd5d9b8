"""Pipelines of the demos on clips: small faces, strongly changed.

From scratch on a few dozen people: without strong changes of colour the network remembers who felt what.
"""

train_pipeline: list = [
    dict(type="hocp_mm.SampleClip", clip_len=16, fps=25, mode="random", hold=(2,)),
    dict(type="hocp_mm.LoadFaceClip", size=54, margin=1.5, cache_mb=1024),
    dict(type="hocp_mm.RandomResizedClipCrop", size=48, scale=(0.55, 1.0)),
    dict(type="hocp_mm.ClipFlip", p=0.5),
    dict(type="hocp_mm.ClipColorJitter", brightness=0.5, contrast=0.5, saturation=0.8),
    dict(type="hocp_mm.PackAffectInputs"),
]
test_pipeline: list = [
    dict(type="hocp_mm.SampleClip", clip_len=16, fps=25, mode="window"),
    dict(type="hocp_mm.LoadFaceClip", size=48, margin=1.5, cache_mb=256),
    dict(type="hocp_mm.PackAffectInputs"),
]
