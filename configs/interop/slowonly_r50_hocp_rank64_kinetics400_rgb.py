"""MMAction2's own SlowOnly-R50 for Kinetics-400, every convolution an HO-CP one, started from timm's ImageNet weights.

Text style, because only that inherits from the installed MMAction2. It runs with our tools and with MMAction2's.
"""

_base_ = "mmaction::recognition/slowonly/slowonly_imagenet-pretrained-r50_8xb16-8x8x1-steplr-150e_kinetics400-rgb.py"

# For MMAction2's own tools; ours do this themselves.
custom_imports = dict(imports=["hocp_mm.compat.auto"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        # MMAction2's inflation writes into `conv.weight`, which HO-CP layers do not have: the hook loads instead.
        pretrained=None,
        conv_cfg=dict(type="hocp_mm.HOCPConv3d", rank=64),
    )
)

custom_hooks = [dict(type="hocp_mm.TransductionHook", source="resnet50")]
