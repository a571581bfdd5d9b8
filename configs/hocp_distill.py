"""A video network that learns without labels: from what an image network says of a folder of videos.

``tools/label_videos.py data/videos --checkpoint BEST.pth --out data/videos_labels`` lets the teacher label them, and
``tools/train.py configs/hocp_distill.py --static-checkpoint BEST.pth`` starts the student, which is ``hocp_sewa``'s,
from its weights. Scores are those on SEWA; without a labelled set add ``--no-validate``.
"""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa import *
    from ._base_.datasets.taught_videos import *
