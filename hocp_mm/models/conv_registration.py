"""Register the layers, so that ``conv_cfg=dict(type='hocp_mm.HOCPConv3d', rank=64)`` reaches them."""

from hocp_mm.layers import HOCPConv1d, HOCPConv2d, HOCPConv3d
from hocp_mm.registry import MODELS

for _layer in (HOCPConv1d, HOCPConv2d, HOCPConv3d):
    MODELS.register_module(module=_layer)
