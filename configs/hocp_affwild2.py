"""Stages 2 and 3 on Aff-Wild2, official parts: model, stages and schedule of ``hocp_sewa``, other data.

The source is timm's ImageNet network; better the checkpoint of stage 1: ``tools/train.py configs/hocp_affwild2.py
--static-checkpoint BEST.pth``. Headline of the challenge: the mean of both CCCs over all valid frames of the validation
part (``affect/ccc_mean``).
"""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa import *
    from ._base_.datasets.affwild2 import *
