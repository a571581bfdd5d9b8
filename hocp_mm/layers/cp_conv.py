"""Convolution layers whose kernel is stored as CP factors.

    weight[o, i, t, h, w] = sum_r weights[r] * factors.out[o, r] * factors.in[i, r] * factors.t[t, r] * ...

Parameters are plain tensors under names that do not move: ``weights``, ``factors.out``, ``factors.in``,
``factors.t``, ``factors.h``, ``factors.w``, ``bias``. There is no ``weight`` attribute on purpose: foreign code that
initialises or inflates ``conv.weight`` would write into a temporary. Use ``kernel()``.

Source: Kossaifi et al., CVPR 2020 (arXiv 1906.06196), HO-CPConv.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hocp_mm.functional.cp import CPKernel, mode_names
from hocp_mm.functional.cp_conv import Implementation, Ints, cp_conv, expand_ints, resolve_padding
from hocp_mm.functional.decompose import decompose
from hocp_mm.functional.rank import RankLike, resolve_rank

DenseConv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class _HOCPConvNd(nn.Module):
    """What the layers of all orders share; ``nn.ConvNd``'s words in ``nn.ConvNd``'s order, then ``rank``."""

    kernel_order: ClassVar[int]
    dense_class: ClassVar[type[nn.Module]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        rank: RankLike = "x1",
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: groups must divide in_channels and out_channels, "
                f"got groups={groups} for {in_channels} -> {out_channels}."
            )
        order = self.kernel_order
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = expand_ints(kernel_size, order, "kernel_size")
        self.stride = expand_ints(stride, order, "stride")
        self.dilation = expand_ints(dilation, order, "dilation")
        self.padding = padding if isinstance(padding, str) else expand_ints(padding, order, "padding")
        resolve_padding(self.padding, self.kernel_size, self.stride, self.dilation)  # refuses a bad word now
        self.padding_mode = padding_mode
        self.implementation: Implementation = implementation
        # mmcv.cnn.ConvModule copies these two off every conv layer it builds.
        self.transposed, self.output_padding = False, (0,) * order
        self.rank = resolve_rank(rank, in_channels, out_channels, self.kernel_size, groups)
        sizes = (out_channels // groups, in_channels // groups, *self.kernel_size)
        self.weights = nn.Parameter(torch.empty(self.rank, device=device, dtype=dtype))
        self.factors = nn.ParameterDict(
            {
                name: nn.Parameter(torch.empty(size, self.rank, device=device, dtype=dtype))
                for name, size in zip(mode_names(order), sizes, strict=True)
            }
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a fresh kernel whose dense twin has He variance ``2 / fan_in``, at any rank.

        The input factor keeps the variance of the input, columns of the convolved modes have norm 1 and so keep it
        too, and the output factor brings the gain. tltorch draws the whole kernel with a fixed standard deviation
        of 0.02 and leaves a new layer uninitialised; neither is so here.
        """
        self.weights.fill_(1)
        for name in self._modes:
            factor = self.factors[name].normal_()
            if name == "in":
                factor.mul_((self.in_channels // self.groups) ** -0.5)
            elif name == "out":
                factor.mul_((2 * self.groups / self.rank) ** 0.5)
            else:
                factor.div_(factor.norm(dim=0))
        if self.bias is not None:
            self.bias.zero_()

    def init_weights(self) -> None:
        """Do nothing: the layer was initialised when it was built.

        mmcv's ConvModule re-initialises a convolution without this method, and mmengine calls it on every child
        after weights may have been loaded; drawing again here would lose them.
        """

    @property
    def _modes(self) -> tuple[str, ...]:
        return mode_names(self.kernel_order)

    def kernel(self) -> CPKernel:
        """Return the kernel in CP form; its tensors are the live parameters."""
        # By name: nn.ParameterDict sorts the keys of the dict it was made from.
        return CPKernel(self.weights, {name: self.factors[name] for name in self._modes}, self.groups)

    @torch.no_grad()
    def set_kernel(self, kernel: CPKernel) -> None:
        """Copy a kernel of the same shape, rank and groups into the parameters.

        Raises:
            ValueError: If shape, rank or groups differ.
        """
        own = self.kernel()
        if (kernel.shape, kernel.rank, kernel.groups) != (own.shape, own.rank, own.groups):
            raise ValueError(
                f"{type(self).__name__}.set_kernel: expected shape {own.shape}, rank {own.rank}, groups {own.groups}, "
                f"got {kernel.shape}, {kernel.rank}, {kernel.groups}."
            )
        self.weights.copy_(kernel.weights)
        for name, factor in kernel.factors.items():
            self.factors[name].copy_(factor)

    @classmethod
    def from_dense(cls, conv: DenseConv, rank: RankLike = "x1", *, seed: int = 0, fit: bool = True) -> Self:
        """Build the CP twin of a dense layer.

        Args:
            conv: ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d`` of this order, of exactly that class.
            rank: As in the constructor.
            seed: Of the decomposition.
            fit: Decompose the weights of ``conv``; False keeps the fresh initialisation.

        Returns:
            A layer with the same settings, dtype, device and training mode, and a copy of the bias.

        Raises:
            TypeError: If ``conv`` is of another class; a subclass may compute something else.
        """
        if type(conv) is not cls.dense_class:
            raise TypeError(
                f"{cls.__name__}.from_dense: expected {cls.dense_class.__name__}, got {type(conv).__name__}."
            )
        layer = cls(**conv_arguments(conv), rank=rank)
        if fit:
            layer.set_kernel(decompose(conv.weight, layer.rank, groups=layer.groups, seed=seed).kernel)
        if layer.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(cast("Tensor", conv.bias))
        return layer.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[batch, in, *sizes]`` or ``[in, *sizes]`` as ``nn.ConvNd`` does."""
        return cp_conv(
            x,
            self.kernel(),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            padding_mode=self.padding_mode,
            implementation=self.implementation,
        )

    def extra_repr(self) -> str:
        """Describe the layer in the words of ``nn.ConvNd``, then the rank."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        neutral: Mapping[str, object] = {
            "padding": (0,) * self.kernel_order,
            "dilation": (1,) * self.kernel_order,
            "groups": 1,
            "padding_mode": "zeros",
            "implementation": "auto",
        }
        text += "".join(f", {n}={getattr(self, n)}" for n, v in neutral.items() if getattr(self, n) != v)
        return text + ("" if self.bias is not None else ", bias=False") + f", rank={self.rank}"


class HOCPConv1d(_HOCPConvNd):
    """``nn.Conv1d`` with a CP kernel: ``[batch, in, w]``; modes out, in, w."""

    kernel_order = 1
    dense_class = nn.Conv1d


class HOCPConv2d(_HOCPConvNd):
    """``nn.Conv2d`` with a CP kernel: ``[batch, in, h, w]``; modes out, in, h, w."""

    kernel_order = 2
    dense_class = nn.Conv2d


class HOCPConv3d(_HOCPConvNd):
    """``nn.Conv3d`` with a CP kernel: ``[batch, in, t, h, w]``; modes out, in, t, h, w."""

    kernel_order = 3
    dense_class = nn.Conv3d


def conv_arguments(conv: nn.Module) -> dict[str, Any]:
    """Read the constructor arguments of a dense or CP convolution off the layer."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    reference = next(conv.parameters())
    own = {name: getattr(conv, name) for name in names}
    return {**own, "bias": conv.bias is not None, "device": reference.device, "dtype": reference.dtype}
