"""Which frames moved a prediction: integrated gradients from a still clip to the clip, summed within frames.

    a[i] = sum_{pixels of frame i} (x - still) * mean_{0 < s < 1} dy / dx at still + s (x - still)

The baseline ``still`` is the mean picture of the clip in every frame: the same face, on which nothing moves. What
frames say by what they have in common is in ``y(still)``; the attributions sum to ``y(x) - y(still)``.

Source: Sundararajan, Taly and Yan, ICML 2017 (arXiv 1703.01365). We differ in the baseline, which they leave open, and
average at the middle of each step. A network with ReLUs needs more steps than a smooth one: where they leave more than
a twentieth of what moved, there are three times as many, of which the first are a part; `MovingFrames.residual` says
what is left then. A pass forward and two back for every step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

STEPS = 16
ENOUGH = 0.05  # of the sum of absolute attributions


@dataclass(frozen=True)
class MovingFrames:
    """What frames did for the prediction of one of them.

    Attributes:
        attributions: For valence and arousal, ``[T, 2]``.
        prediction: ``[2]``.
        still: Prediction for the still clip, ``[2]``.
        steps: Points between the still clip and the clip.
    """

    attributions: Tensor
    prediction: Tensor
    still: Tensor
    steps: int

    @property
    def residual(self) -> Tensor:
        """What the attributions lack to the whole difference, ``[2]``; 0 for infinitely many steps."""
        return self.prediction - self.still - self.attributions.sum(0)

    @property
    def share_left(self) -> float:
        """The residual, over the sum of absolute attributions: the larger one of valence and arousal."""
        moved = self.attributions.abs().sum(0)
        return float((self.residual.abs() / moved.clamp_min(1e-6)).max())


def moving_frames(model: nn.Module, clip: Tensor, frame: int, steps: int = STEPS, batch_size: int = 8) -> MovingFrames:
    """Attribute the prediction of a frame to the frames of its clip.

    Args:
        model: Recogniser in evaluation mode, parameters without gradients; ``model(clip, mode="tensor")`` gives
            ``[N, T, 2]``.
        clip: Normalised, ``[C, T, H, W]``.
        frame: Whose prediction.
        steps: Points between the still clip and the clip, at first.
        batch_size: Points per forward pass.

    Returns:
        The attributions.

    Raises:
        ValueError: If there is no such frame, or no step.
    """
    if not 0 <= frame < clip.shape[1]:
        raise ValueError(f"moving_frames: frame must be one of {clip.shape[1]}, got {frame}.")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"moving_frames: steps and batch_size must be positive, got {steps} and {batch_size}.")
    still = clip.mean(1, keepdim=True).expand_as(clip)
    way = clip - still
    with torch.no_grad():
        prediction, base = model(torch.stack([clip, still]), mode="tensor")[:, frame]

    def summed(points: Tensor) -> Tensor:
        total = torch.zeros(clip.shape[1], 2, dtype=clip.dtype, device=clip.device)
        for some in points.split(batch_size):
            with torch.enable_grad():
                inputs = (still + some.to(clip).reshape(-1, 1, 1, 1, 1) * way).requires_grad_()
                pred = model(inputs, mode="tensor")[:, frame]
                for index in range(2):
                    (gradient,) = torch.autograd.grad(pred[:, index].sum(), inputs, retain_graph=index == 0)
                    total[:, index] += (gradient * way).sum((0, 1, 3, 4))
        return total

    first = summed((torch.arange(steps) + 0.5) / steps)
    found = MovingFrames(first / steps, prediction.detach(), base.detach(), steps)
    if found.share_left <= ENOUGH:
        return found
    others = torch.arange(3 * steps)
    more = first + summed((others[others % 3 != 1] + 0.5) / (3 * steps))
    return MovingFrames(more / (3 * steps), prediction.detach(), base.detach(), 3 * steps)
