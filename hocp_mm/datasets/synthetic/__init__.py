"""Procedural talking faces whose valence and arousal are known: identities, acted clips, and sets in real layouts."""

from hocp_mm.datasets.synthetic.afew_va_writer import SyntheticAfewVaSpec, write_synthetic_afew_va
from hocp_mm.datasets.synthetic.affectnet_files import expression_of
from hocp_mm.datasets.synthetic.affectnet_writer import SyntheticAffectNetSpec, write_synthetic_affectnet
from hocp_mm.datasets.synthetic.affwild2_writer import SyntheticAffWild2Spec, write_synthetic_affwild2
from hocp_mm.datasets.synthetic.clip import FPS, RenderedFrame, SyntheticClip
from hocp_mm.datasets.synthetic.face import HeadPose, SyntheticFace
from hocp_mm.datasets.synthetic.geometry import Expression
from hocp_mm.datasets.synthetic.identity import Identity, sample_identity
from hocp_mm.datasets.synthetic.scene import Scene, sample_scene
from hocp_mm.datasets.synthetic.sewa_files import write_xvid
from hocp_mm.datasets.synthetic.sewa_writer import SyntheticSewaSpec, write_synthetic_sewa
from hocp_mm.datasets.synthetic.trajectories import MOTION_SHARE, AffectTrajectory, sample_affect

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
