"""Dense layers that may train where PyTorch's own would end the process (:mod:`hocp_mm.functional.few_channels`)."""

from torch import Tensor, nn

from hocp_mm.functional.few_channels import conv2d
from hocp_mm.layers.tracing import fx_leaf


class FewChannelsConv2d(nn.Conv2d):
    """``nn.Conv2d``; a strided 1x1 convolution of few channels takes another way to the same numbers."""

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``[N, in, H, W]`` to ``[N, out, H', W']``; in a graph it is one node, as torch's own are."""
        return super().forward(input)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(input, weight, bias)
        return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def make_trainable_(model: nn.Module) -> list[str]:
    """Let the strided 1x1 convolutions of a network train on images in ``channels_last``.

    Args:
        model: The network; such layers change their class, and nothing else.

    Returns:
        Names of the layers.
    """
    names = []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d and max(module.kernel_size) == 1 and max(module.stride) > 1:
            module.__class__ = FewChannelsConv2d
            names.append(name)
    return names
