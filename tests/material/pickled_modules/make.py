"""Pickle tiny EfficientNets whole, as HSEmotion does with large ones, under whatever timm is installed.

    python -m venv env && env/bin/pip install timm==0.4.5 --no-deps   # beside a torch; also 0.5.4, 0.6.13, 0.9.16
    env/bin/python make.py

writes ``timm_0.4.5*.pt`` beside this file, and into ``outputs.json`` what the network says about `pictures`. The files
here were made with torch 2.15 on Python 3.11. It imports nothing of this repository.
"""

import collections.abc
import inspect
import json
import sys
import types
from functools import partial
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
ARCHITECTURE = [["ds_r1_k3_s1_e1_c8_se0.25"], ["ir_r1_k3_s2_e2_c8_se0.25"], ["er_r1_k3_s1_e2_c8"], ["cn_r1_k1_s1_c12"]]
CLASSES = 5


def tiny_efficientnet() -> nn.Module:
    """A network of every kind of block, with TensorFlow's padding, in the words of all releases of timm."""
    from timm.models import efficientnet

    words = {
        "block_args": efficientnet.decode_arch_def(ARCHITECTURE),
        "num_classes": CLASSES,
        "num_features": 16,
        "stem_size": 8,
        "pad_type": "same",
        "act_layer": nn.SiLU,
        "norm_kwargs": {"eps": 1e-3},  # before 0.4.12
        "norm_layer": partial(nn.BatchNorm2d, eps=1e-3),
    }
    known = inspect.signature(efficientnet.EfficientNet.__init__).parameters
    if "norm_kwargs" in known:
        words["norm_layer"] = nn.BatchNorm2d
    return efficientnet.EfficientNet(**{word: value for word, value in words.items() if word in known})


def pictures() -> torch.Tensor:
    """Two pictures of 33 x 35 pixels without a random number."""
    return torch.arange(2 * 3 * 33 * 35, dtype=torch.float32).mul(0.37).sin().reshape(2, 3, 33, 35)


@torch.no_grad()
def trained(net: nn.Module) -> nn.Module:
    """Give every tensor values of its own, none that a fresh network has."""
    for number, tensor in enumerate(net.state_dict().values()):
        if tensor.is_floating_point():
            waves = (
                torch.arange(tensor.numel(), dtype=torch.float32).mul(0.7 + 0.01 * number).sin().reshape(tensor.shape)
            )
            tensor.copy_(0.5 * waves + (1.0 if tensor.ndim == 1 else 0.0))
    return net.eval()


def main() -> None:
    if "torch._six" not in sys.modules:  # what timm 0.4 takes from torch, which torch 2 has no longer
        sys.modules["torch._six"] = types.SimpleNamespace(
            container_abcs=collections.abc, int_classes=int, string_classes=str
        )
    import timm

    version, outputs = timm.__version__, HERE / "outputs.json"
    net = trained(tiny_efficientnet())
    with torch.no_grad():
        logits, features = net(pictures()), net.forward_features(pictures())
    said = json.loads(outputs.read_text()) if outputs.exists() else {}
    said[version] = {"logits": logits.tolist(), "features": features.mean((2, 3)).tolist()}
    outputs.write_text(json.dumps(dict(sorted(said.items())), indent=1) + "\n")
    torch.save(net, HERE / f"timm_{version}.pt")
    if version == "0.5.4":
        torch.save(nn.DataParallel(net), HERE / f"timm_{version}_parallel.pt")
    if version == "0.9.16":
        torch.save({"epoch": 7, "model": net}, HERE / f"timm_{version}_in_dict.pt")


if __name__ == "__main__":
    main()
