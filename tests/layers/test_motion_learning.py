"""Motion components learn how fast something moves, which neither linear temporal factors nor any frame can tell."""

import pytest
import torch
from torch import Tensor, nn

from hocp_mm.functional.motion import Rectifier
from hocp_mm.layers import FrameAxis, HOCPConv2d, transduct_

FRAMES, SIZE, CLIPS = 5, 12, 48
STEPS, RATE = 120, 3e-2


def drifting_textures(seed: int) -> tuple[Tensor, Tensor]:
    """Make clips of smooth noise that drifts, each in a direction of its own, and their speeds.

    Returns:
        ``[N*T, 1, H, W]`` and ``[N]``, pixels per frame, of mean 0 and variance 1.
    """
    draw = torch.Generator().manual_seed(seed)
    speeds, angles = 1.5 * torch.rand(CLIPS, generator=draw), 6.3 * torch.rand(CLIPS, generator=draw)
    waves = torch.fft.fftfreq(SIZE)
    smooth = torch.exp(-20 * (waves[:, None] ** 2 + waves**2))
    texture = torch.fft.fft2(torch.randn(CLIPS, SIZE, SIZE, generator=draw)) * smooth
    path = speeds[:, None] * torch.arange(FRAMES)  # a shift is a turn of phases: exact between pixels, too
    rows, columns = path * angles.sin()[:, None], path * angles.cos()[:, None]
    phases = rows[..., None, None] * waves[:, None] + columns[..., None, None] * waves
    clips = torch.fft.ifft2(texture[:, None] * torch.exp(-2j * torch.pi * phases)).real
    clips = clips / clips.std((1, 2, 3), keepdim=True)
    return clips.reshape(-1, 1, SIZE, SIZE), (speeds - speeds.mean()) / speeds.std()


def learnt(motion: dict[str, Rectifier] | None) -> float:
    """Train one layer, averages over pixels and time, and a linear head; return the correlation on other clips."""
    torch.manual_seed(0)
    axis, layer = FrameAxis(), nn.Sequential(HOCPConv2d(1, 8, 3, padding=1, rank=8))
    transduct_(layer, 3, frame_axis=axis, motion=None if motion is None else {"rank": 8, **motion})
    head = nn.Linear(8, 1)

    def run(images: Tensor) -> Tensor:
        axis.clips, axis.length = CLIPS, FRAMES
        return head(layer(images).mean((2, 3)).view(CLIPS, FRAMES, 8)[:, 1:-1].mean(1))[:, 0]

    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=RATE)
    for step in range(STEPS):
        images, speeds = drifting_textures(step)
        optimizer.zero_grad()
        (run(images) - speeds).square().mean().backward()
        optimizer.step()
    images, speeds = drifting_textures(STEPS)
    with torch.no_grad():
        return float(torch.corrcoef(torch.stack([run(images), speeds]))[0, 1])


@pytest.mark.parametrize("rectifier", ["abs", "relu"])
def test_speed_is_learnt(rectifier: Rectifier) -> None:
    assert learnt({"rectifier": rectifier}) > 0.9


def test_linear_factors_alone_stay_at_chance() -> None:
    assert learnt(None) < 0.4


def test_without_the_rectifier_they_stay_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "abs", lambda tensor: tensor)
    assert learnt({"rectifier": "abs"}) < 0.4
