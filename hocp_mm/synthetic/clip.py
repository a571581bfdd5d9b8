"""One synthetic clip: a person, a scene and an acted trajectory, rendered frame by frame in any order."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hocp_mm.synthetic.face import HeadPose, SyntheticFace
from hocp_mm.synthetic.geometry import Expression
from hocp_mm.synthetic.identity import Identity, sample_identity
from hocp_mm.synthetic.scene import NOISE_MARGIN, sample_scene
from hocp_mm.synthetic.trajectories import (
    MOTION_SHARE,
    AffectTrajectory,
    PoseTrajectory,
    sample_affect,
    sample_blinks,
    sample_flutter,
    sample_gaze,
    sample_pose,
    smooth_process,
)

Floats = npt.NDArray[np.float64]

FPS = 25
"""Frames per second of a synthetic clip."""

# One generator per purpose: a change to the drawing of, say, the background leaves the labels as they are.
_IDENTITY, _SCENE, _TEXTURE, _AFFECT, _ACTING, _POSE, _CAMERA = range(7)


@dataclass(frozen=True)
class RenderedFrame:
    """One frame of a clip with all that is known about it.

    Attributes:
        image: ``[240, 320, 3]`` RGB bytes.
        landmarks: ``[49, 2]`` true landmarks in pixels (x, y), in the order of the 68-point scheme without jaw line and
            inner mouth corners.
        pose: Pitch, yaw and roll of the head in degrees.
        eyes: ``[2, 2]`` middles of the left and the right eye on screen, in pixels.
        valence: Valence in (-1, 1).
        arousal: Arousal in (-1, 1).
    """

    image: npt.NDArray[np.uint8]
    landmarks: Floats
    pose: tuple[float, float, float]
    eyes: Floats
    valence: float
    arousal: float


class SyntheticClip:
    """A clip of one person; ``clip[i]`` renders frame ``i``.

    The same numbers give the same clip in every process and in every order of rendering.

    Args:
        seed: Seed of the whole set.
        subject: Number of the person; equal numbers under one seed show the same person.
        clip: Number of the person's clip.
        frames: Length F in frames.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].
    """

    def __init__(
        self, seed: int, subject: int, clip: int = 0, frames: int = 150, motion_share: float = MOTION_SHARE
    ) -> None:
        if frames < 1:
            raise ValueError(f"SyntheticClip: frames must be at least 1, got {frames}.")

        def rng(purpose: int, *numbers: int) -> np.random.Generator:
            return np.random.default_rng([seed, purpose, subject, *numbers])

        self.identity: Identity = sample_identity(rng(_IDENTITY))
        self.affect: AffectTrajectory = sample_affect(rng(_AFFECT, clip), frames, FPS, motion_share)
        self.pose: PoseTrajectory = sample_pose(rng(_POSE, clip), self.affect.motion, FPS)
        acting = rng(_ACTING, clip)
        self.mouth_open: Floats = sample_flutter(acting, self.affect.motion, FPS)
        """``[F]`` opening of the mouth in [0, 1]: its speed shows the motion part of arousal, its position does not."""
        lids = sample_flutter(acting, self.affect.motion, FPS, rate=0.8)
        blinks = sample_blinks(acting, frames, FPS)
        usual = 0.85 + 0.32 * (self.affect.still + self.identity.eye_bias)
        self.eye_open: Floats = np.maximum(usual, 0.25) * (1 - 0.35 * lids) * (1 - blinks)
        """``[F]`` opening of the lids, 1 = usual."""
        self._gaze = sample_gaze(acting, frames, FPS)
        self._noise_offsets = rng(_CAMERA, clip).integers(0, NOISE_MARGIN + 1, size=(frames, 2))
        self._exposure = 1 + 0.015 * smooth_process(rng(_CAMERA, clip, 1), frames, FPS, 0.5)
        scene = sample_scene(rng(_SCENE, clip), self.identity)
        self._face = SyntheticFace(self.identity, scene, rng(_TEXTURE))

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.mouth_open.size

    def __getitem__(self, index: int) -> RenderedFrame:
        """Render one frame.

        Args:
            index: Number of the frame, from 0.

        Returns:
            The frame and what is true of it.

        Raises:
            IndexError: If there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"SyntheticClip: frame must lie in [0, {len(self) - 1}], got {index}.")
        pose = HeadPose(
            shift=_pair(self.pose.shift[index]),
            roll=float(self.pose.roll[index]),
            scale=float(self.pose.scale[index]),
            turn=_pair(self.pose.turn[index]),
        )
        row, column = self._noise_offsets[index].tolist()
        image, landmarks = self._face.render(self.expression(index), pose, self._exposure[index], (row, column))
        yaw, pitch = np.rad2deg(np.arcsin(pose.turn))
        return RenderedFrame(
            image=image,
            landmarks=landmarks,
            pose=(float(pitch), float(yaw), float(np.rad2deg(pose.roll))),
            eyes=np.stack([landmarks[19:25].mean(axis=0), landmarks[25:31].mean(axis=0)]),
            valence=float(self.affect.valence[index]),
            arousal=float(self.affect.arousal[index]),
        )

    def expression(self, index: int) -> Expression:
        """Return what the face does in one frame.

        Args:
            index: Number of the frame, from 0.

        Returns:
            The expression: valence and the visible part of arousal with the person's biases, and the flutter.
        """
        valence, still = float(self.affect.valence[index]), float(self.affect.still[index])
        return Expression(
            smile=valence + self.identity.smile_bias,
            frown=-valence,
            brow_raise=still + self.identity.brow_bias,
            eye_open=float(self.eye_open[index]),
            mouth_open=float(self.mouth_open[index]),
            gaze=_pair(self._gaze[index]),
        )


def _pair(values: Floats) -> tuple[float, float]:
    return float(values[0]), float(values[1])
