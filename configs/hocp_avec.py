"""Stages 2 and 3 on AVEC's recordings: model, stages and schedule of ``hocp_sewa``, other data.

Labels of 2017, 2018 or 2019 alike. Train and Devel are the challenge's own; which two recordings are partners of one
talk is not told. A static stage on SEWA (``hocp_sewa_static``) may have seen people of Devel: start from AffectNet or
ImageNet where scores are to count.
"""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa import *
    from ._base_.datasets.avec import *
