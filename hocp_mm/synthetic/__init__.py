"""Procedural talking faces whose valence and arousal are known: identities, acted clips, and sets in real layouts."""

from hocp_mm.synthetic.afew_va import SyntheticAfewVaSpec, write_synthetic_afew_va
from hocp_mm.synthetic.affectnet import SyntheticAffectNetSpec, expression_of, write_synthetic_affectnet
from hocp_mm.synthetic.affwild2 import SyntheticAffWild2Spec, write_synthetic_affwild2
from hocp_mm.synthetic.clip import FPS, RenderedFrame, SyntheticClip
from hocp_mm.synthetic.face import HeadPose, SyntheticFace
from hocp_mm.synthetic.geometry import Expression
from hocp_mm.synthetic.identity import Identity, sample_identity
from hocp_mm.synthetic.scene import Scene, sample_scene
from hocp_mm.synthetic.sewa import SyntheticSewaSpec, write_synthetic_sewa, write_xvid
from hocp_mm.synthetic.trajectories import MOTION_SHARE, AffectTrajectory, sample_affect

__all__ = [
    "FPS",
    "MOTION_SHARE",
    "AffectTrajectory",
    "Expression",
    "HeadPose",
    "Identity",
    "RenderedFrame",
    "Scene",
    "SyntheticAfewVaSpec",
    "SyntheticAffWild2Spec",
    "SyntheticAffectNetSpec",
    "SyntheticClip",
    "SyntheticFace",
    "SyntheticSewaSpec",
    "expression_of",
    "sample_affect",
    "sample_identity",
    "sample_scene",
    "write_synthetic_afew_va",
    "write_synthetic_affectnet",
    "write_synthetic_affwild2",
    "write_synthetic_sewa",
    "write_xvid",
]
