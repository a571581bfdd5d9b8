"""Random processes over time that drive a synthetic face: affect, flutter, blinks, gaze and head pose.

The rule that makes the set a test of temporal models lives here: one part of arousal sets how the face *looks*, the
other part only how *fast* it moves. A flutter has the same distribution of positions at every speed, so that a single
frame says nothing about the second part.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MOTION_SHARE = 0.6
"""Default share of arousal's variance that only motion shows; the best still predictor then correlates by 0.63."""

FLUTTER_HZ = (0.3, 8.0)
"""Flutter speed at motion -1 and +1. Every second frame of 25 fps still resolves 6 Hz (half of 12.5 fps)."""

_CLIP_VARIANCE = 0.1  # share of a latent's variance that lies between clips rather than inside one
_AFFECT_SECONDS = 0.6  # 2nd-order process: integral of the autocorrelation = 4 x this, both sides together
_POSE_SECONDS = 0.7
_BLINK = np.array([0.5, 0.95, 1.0, 0.6, 0.2])  # closure over the frames of one blink


@dataclass(frozen=True)
class AffectTrajectory:
    """Affect of one clip, and the two independent parts that arousal is mixed from.

    Attributes:
        valence: ``[F]`` in (-1, 1).
        arousal: ``[F]`` in (-1, 1), mixed from the two parts below.
        still: ``[F]`` in (-1, 1), the part of arousal that a single frame shows.
        motion: ``[F]`` in (-1, 1), the part that only the speed of the flutter shows.
    """

    valence: Floats
    arousal: Floats
    still: Floats
    motion: Floats


@dataclass(frozen=True)
class PoseTrajectory:
    """Head pose of every frame, relative to the resting pose.

    Attributes:
        shift: ``[F, 2]`` in pixels (x right, y down).
        roll: ``[F]`` in radians, clockwise on screen.
        scale: ``[F]``, 1 = resting size.
        turn: ``[F, 2]`` sines of yaw (to the viewer's right) and pitch (down).
    """

    shift: Floats
    roll: Floats
    scale: Floats
    turn: Floats


def smooth_process(rng: np.random.Generator, frames: int, fps: float, seconds: float) -> Floats:
    """Sample a stationary Gaussian process of unit variance: an Ornstein-Uhlenbeck process, low-passed once more.

    Args:
        rng: Source of randomness.
        frames: Length F.
        fps: Frames per second.
        seconds: Time constant of both stages; the autocorrelation is ``(1 + t/seconds) * exp(-t/seconds)``.

    Returns:
        ``[F]`` values of mean 0 and variance 1 over the ensemble.
    """
    time = np.arange(1, int(10 * seconds * fps) + 2) / (seconds * fps)
    kernel = time * np.exp(-time)
    kernel /= np.sqrt((kernel**2).sum())
    return np.convolve(rng.standard_normal(frames + kernel.size - 1), kernel, mode="valid")


def sample_affect(
    rng: np.random.Generator, frames: int, fps: float = 25.0, motion_share: float = MOTION_SHARE
) -> AffectTrajectory:
    """Sample valence and arousal of one clip, independent of each other and each with the clip's own mean.

    Args:
        rng: Source of randomness.
        frames: Length F.
        fps: Frames per second.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].

    Returns:
        The trajectories, nearly uniform in (-1, 1) over many clips.

    Raises:
        ValueError: If ``motion_share`` lies outside [0, 1].
    """
    if not 0 <= motion_share <= 1:
        raise ValueError(f"sample_affect: motion_share must lie in [0, 1], got {motion_share}.")
    valence, still, motion = (_sample_latent(rng, frames, fps) for _ in range(3))
    arousal = np.sqrt(1 - motion_share) * still + np.sqrt(motion_share) * motion
    return AffectTrajectory(*(_to_range(latent) for latent in (valence, arousal, still, motion)))


def sample_flutter(rng: np.random.Generator, motion: Floats, fps: float = 25.0, rate: float = 1.0) -> Floats:
    """Sample an oscillation whose speed follows ``motion`` while its range stays the same.

    A softened triangle wave: it passes all positions about equally often, and its speed hardly depends on its phase, so
    that two neighbouring frames tell the speed nearly always and one frame never.

    Args:
        rng: Source of randomness (the phase).
        motion: ``[F]`` in [-1, 1]; sets the frequency between the two values of ``FLUTTER_HZ``.
        fps: Frames per second.
        rate: Factor on the frequency, so that several parts of a face do not move in step.

    Returns:
        ``[F]`` positions in [0, 1].
    """
    slow, fast = FLUTTER_HZ
    hertz = rate * (slow + (fast - slow) * (motion + 1) / 2)
    cycles = rng.uniform() + np.cumsum(hertz) / fps
    softness = 0.95
    return 0.5 + 0.5 * np.arcsin(softness * np.sin(2 * np.pi * cycles)) / np.arcsin(softness)


def sample_blinks(rng: np.random.Generator, frames: int, fps: float = 25.0, per_second: float = 0.25) -> Floats:
    """Sample eye closure by blinks, which come at a fixed rate and tell nothing about affect.

    Args:
        rng: Source of randomness.
        frames: Length F.
        fps: Frames per second.
        per_second: Mean number of blinks per second.

    Returns:
        ``[F]`` closure in [0, 1].
    """
    starts = rng.uniform(size=frames) < per_second / fps
    # Overlapping blinks merge into one longer blink instead of closing the eye by more than 1.
    return np.minimum(np.convolve(starts, _BLINK)[:frames], 1.0)


def sample_gaze(rng: np.random.Generator, frames: int, fps: float = 25.0) -> Floats:
    """Sample where the eyes look: fixations of about a second, joined by jumps.

    Args:
        rng: Source of randomness.
        frames: Length F.
        fps: Frames per second.

    Returns:
        ``[F, 2]`` in [-1, 1] (x right, y down), as fractions of the iris's range.
    """
    fixation = np.cumsum(rng.uniform(size=frames) < 1 / fps)
    targets = np.clip(0.35 * rng.standard_normal((frames + 1, 2)), -1, 1)
    return targets[fixation]


def sample_pose(rng: np.random.Generator, motion: Floats, fps: float = 25.0) -> PoseTrajectory:
    """Sample a head pose that drifts smoothly and, in addition, trembles at the speed of ``motion``.

    Args:
        rng: Source of randomness.
        motion: ``[F]`` in [-1, 1], sets the speed of the tremor, not its range.
        fps: Frames per second.

    Returns:
        The pose of every frame.
    """
    drift = np.stack([smooth_process(rng, motion.size, fps, _POSE_SECONDS) for _ in range(6)])
    # Tails would carry the head out of the picture or turn it further than a flat drawing bears.
    drift = 2 * np.tanh(drift / 2)
    tremor = np.stack([2 * sample_flutter(rng, motion, fps, rate) - 1 for rate in (0.7, 0.9)], axis=-1)
    return PoseTrajectory(
        shift=drift[:2].T * (5.0, 3.5) + tremor * (0.8, 1.6),
        roll=np.deg2rad(3.5) * drift[2],
        scale=1 + 0.025 * drift[3],
        turn=drift[4:].T * (0.22, 0.14),
    )


def _sample_latent(rng: np.random.Generator, frames: int, fps: float) -> Floats:
    mean = np.sqrt(_CLIP_VARIANCE) * rng.standard_normal()
    return mean + np.sqrt(1 - _CLIP_VARIANCE) * smooth_process(rng, frames, fps, _AFFECT_SECONDS)


def _to_range(latent: Floats) -> Floats:
    """Map a standard normal to an almost uniform value in (-1, 1): tanh(0.85 z) is close to 2 * Phi(z) - 1."""
    return np.tanh(0.85 * latent)
