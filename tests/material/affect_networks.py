"""Networks of the very architectures of HSEmotion, at random weights."""

import timm
import torch
import torch.nn.functional as F
from torch import nn


def efficientnet(
    kind: str, outputs: int, *, sequence: bool = False, eps: float | None = None, sees: bool = False
) -> nn.Module:
    """Build a network as HSEmotion's notebooks do.

    Args:
        kind: ``"b0"`` or ``"b2"``.
        outputs: Rows of the last layer.
        sequence: Put the last layer into a sequence, as those of expressions have it.
        eps: Of the norms; timm's own by default.
        sees: Give the norms statistics with which the outputs depend on the picture, which takes a second.
    """
    torch.manual_seed(outputs)
    net = timm.create_model(f"tf_efficientnet_{kind}", num_classes=outputs)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.8, 1.2)
            norm.bias.normal_(std=0.1)
        if sees:  # else each layer loses a part of what pictures say; these are as smooth as those of the tests
            net.train()(F.interpolate(torch.randn(16, 3, 8, 8), 128, mode="bilinear"))
        for norm in norms:
            norm.momentum = 0.1
        net.classifier.weight.normal_(std=0.02)
        net.classifier.bias.normal_(std=0.1)
    for norm in norms:
        norm.eps = norm.eps if eps is None else eps
    if sequence:
        net.classifier = nn.Sequential(net.classifier)
    return net.eval()
