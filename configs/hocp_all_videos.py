"""Stages 2 and 3 on SEWA, AFEW-VA and Aff-Wild2 together: model, stages and schedule of ``hocp_sewa``, other data.

Each set has a share of the clips that does not depend on its size: ``train_dataloader.sampler.shares``, in the order of
``train_dataloader.dataset.datasets``. Scores run over all frames of all sets together (``affect/ccc_mean``, which
chooses the best checkpoint), and besides over those of each (``affect/SEWA/ccc_mean``). ``fold`` is that of AFEW-VA.
"""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa import *
    from ._base_.datasets.all_videos import *
