"""Convolution layers whose kernel is stored as CP factors.

    weight[o, i, t, h, w] = sum_r weights[r] * factors.out[o, r] * factors.in[i, r] * factors.t[t, r] * ...

Parameters are plain tensors under names that do not move: ``weights``, ``factors.out``, ``factors.in``,
``factors.t``, ``factors.h``, ``factors.w``, ``bias``. There is no ``weight`` attribute on purpose: foreign code that
initialises or inflates ``conv.weight`` would write into a temporary. Use ``kernel()``.

What a layer may hold besides, as submodules ``inner`` and ``gate`` (None where not asked for):

    x --1x1 (in)--> [R] --inner: norm, act--> --depthwise--> [R] --gate--> --1x1 (out * lambda, some dropped)--> y

Source: Kossaifi et al., CVPR 2020 (arXiv 1906.06196), HO-CPConv.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from hocp_mm.functional.context import is_traced_to_torchscript
from hocp_mm.functional.cp import CPKernel, mode_names
from hocp_mm.functional.cp_conv import (
    Implementation,
    Ints,
    Pointwise,
    check_words,
    cp_conv,
    expand_ints,
    resolve_padding,
)
from hocp_mm.functional.frame_folded import fold_frames, unfold_frames
from hocp_mm.functional.rank import RankLike, resolve_rank
from hocp_mm.functional.transduct import Init, transduct
from hocp_mm.layers.gate import SqueezeExcitation, build_gate, drop_components
from hocp_mm.layers.inner import Cfg, build_inner, lift_inner
from hocp_mm.layers.motion import MotionComponents, MotionOptions
from hocp_mm.layers.options import DenseConv, FitReport, Options, conv_arguments, fit_dense
from hocp_mm.layers.reparametrized import refresh_
from hocp_mm.layers.tracing import fx_leaf
from hocp_mm.layers.variants import Standardization


class _HOCPConvNd(nn.Module):
    """What the layers of all orders share: the arguments of ``nn.ConvNd`` in its order, and more by keyword.

    Args:
        rank: Components (see :func:`hocp_mm.functional.resolve_rank`).
        implementation: See :mod:`hocp_mm.functional.cp_conv`.
        recompute: Compute activations of the components again for the backward pass instead of keeping them; not
            with Psi.
        inner_norm_cfg: Norm of Psi in OpenMMLab's words, such as ``dict(type='BN')`` (:mod:`hocp_mm.layers.inner`).
        inner_act_cfg: Activation of Psi, such as ``dict(type='ReLU')``.
        gate_cfg: ``dict(type='SE', reduction=4)`` for squeeze-excitation (:mod:`hocp_mm.layers.gate`).
        dropout: Probability in [0, 1) of a component to be dropped from a training step.
        motion_cfg: ``dict(rank='x0.125', rectifier='abs')`` for motion components, of a 3-D layer alone, with the taps
            of its temporal factor (:mod:`hocp_mm.functional.motion`).

    Raises:
        ValueError: If a word, size or number is outside what is allowed, ``'reconstructed'`` meets Psi or a gate, or
            ``recompute`` meets Psi.
    """

    kernel_order: ClassVar[int]
    dense_class: ClassVar[type[nn.Module]]
    inner: nn.Sequential | None
    gate: SqueezeExcitation | None
    motion: MotionComponents | None
    fit_report: FitReport | None
    # How weights of the layer that this one replaced make the dense kernel; None where they are it.
    source_kernel: Standardization | None = None

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
        recompute: bool = False,
        inner_norm_cfg: Cfg | None = None,
        inner_act_cfg: Cfg | None = None,
        gate_cfg: Cfg | None = None,
        dropout: float = 0.0,
        motion_cfg: MotionOptions | None = None,
    ) -> None:
        super().__init__()
        order = self.kernel_order
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = expand_ints(kernel_size, order, "kernel_size", spread=False)
        self.stride = expand_ints(stride, order, "stride")
        self.dilation = expand_ints(dilation, order, "dilation")
        self.padding = padding if isinstance(padding, str) else expand_ints(padding, order, "padding")
        self.padding_mode, self.dropout = padding_mode, dropout
        self.implementation: Implementation = implementation
        self.recompute = recompute
        self._check_sizes()
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
        inner = build_inner(inner_norm_cfg, inner_act_cfg, self.rank, order)
        self.inner = None if inner is None else inner.to(device, dtype)
        self.gate = None if gate_cfg is None else build_gate(gate_cfg, self.rank, order).to(device, dtype)
        self.motion = None
        if motion_cfg is not None:
            if order != 3:
                raise ValueError(f"{type(self).__name__}: motion_cfg is for layers with time, got {dict(motion_cfg)}.")
            size = self.kernel_size[0]
            self.motion = MotionComponents(out_channels, size, size // 2, **motion_cfg).to(device, dtype)
        check_words(padding_mode, implementation, self.inner, self.gate, recompute)
        self.fit_report = None
        self.reset_parameters()

    def _check_sizes(self) -> None:
        """Refuse at construction what construction can know of channels and sizes."""
        where, groups, channels = type(self).__name__, self.groups, (self.in_channels, self.out_channels)
        if min(groups, *channels) < 1 or any(c % groups for c in channels):
            raise ValueError(
                f"{where}: groups must divide in_channels and out_channels, all positive, "
                f"got groups={groups} for {channels[0]} -> {channels[1]}."
            )
        # Refuses a bad word, and less than 0.
        resolve_padding(self.padding, self.kernel_size, self.stride, self.dilation)
        for name in ("kernel_size", "stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{where}: {name} must be positive, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{where}: dropout must lie in [0, 1), got {self.dropout}.")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a fresh kernel of He variance at any rank: the output has twice the mean square of the input.

        Columns of the convolved modes have norm 1 and keep the variance. Without an activation in Psi the input factor
        keeps it, too, and the output factor brings the gain 2: the dense twin has variance ``2 / fan_in``. Behind an
        activation, which halves the mean square, the input factor has that gain as well: each 1x1 stage is initialised
        on its own. Behind a norm the output variance is 2, or 1 with a ReLU, for any input.

        Plain SGD needs a smaller rate than for a fresh dense layer, whose output PyTorch draws six times smaller and
        whose loss is curved less: with 8 channels, 8 components and a squared error, the largest stable rate at first
        is 0.2 to 0.5 instead of 4 to 6, in any precision and sharded or not. A fitted layer takes larger ones.

        tltorch draws the whole kernel with a fixed standard deviation of 0.02 and leaves a new layer uninitialised;
        neither is so here.
        """
        if self.weights.is_meta:
            return  # Nothing to draw, and PyTorch would import seconds' worth of its compiler to do it.
        rectified = self.inner is not None and hasattr(self.inner, "act")
        self.weights.fill_(1)
        for name in self.kernel().factors:
            factor = self.factors[name].normal_()
            if name == "in":
                factor.mul_(((2 if rectified else 1) * self.groups / self.in_channels) ** 0.5)
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
    def source_names(self) -> tuple[str, ...]:
        """Tensors that the dense kernel of a source is made from."""
        return ("weight",) if self.source_kernel is None else self.source_kernel.names

    @property
    def _modes(self) -> tuple[str, ...]:
        return mode_names(self.kernel_order)

    def kernel(self) -> CPKernel:
        """Return the kernel in CP form; its tensors are the live parameters, or what is computed from them now."""
        refresh_(self.factors)
        # By name: nn.ParameterDict sorts the keys of the dict it was made from.
        return CPKernel(self.weights, {name: self.factors[name] for name in self._modes}, self.groups)

    @torch.no_grad()
    def set_kernel(self, kernel: CPKernel) -> None:
        """Copy a kernel of the same shape, rank and groups into the parameters.

        Raises:
            NotImplementedError: If a factor is computed from other parameters.
            ValueError: If shape, rank or groups differ.
        """
        self.require_plain(f"{type(self).__name__}.set_kernel")
        own = self.kernel()
        if (kernel.shape, kernel.rank, kernel.groups) != (own.shape, own.rank, own.groups):
            raise ValueError(
                f"{type(self).__name__}.set_kernel: expected shape {own.shape}, rank {own.rank}, groups {own.groups}, "
                f"got {kernel.shape}, {kernel.rank}, {kernel.groups}."
            )
        self.weights.copy_(kernel.weights)
        for name, factor in kernel.factors.items():
            self.factors[name].copy_(factor)

    def require_plain(self, where: str) -> None:
        """Refuse to write into factors that are computed from other parameters: what is written would be lost.

        Args:
            where: Name of the operation, for errors.

        Raises:
            NotImplementedError: If lambda or a factor is no parameter.
        """
        tensors = {"weights": self.weights, **{f"factors.{mode}": self.factors[mode] for mode in self._modes}}
        computed = [name for name, tensor in tensors.items() if not isinstance(tensor, nn.Parameter)]
        if computed:
            raise NotImplementedError(
                f"{where}: factors must be parameters, got {', '.join(computed)} computed from others (remove "
                "weight_norm, spectral_norm, prune or the parametrization first)."
            )

    @classmethod
    def from_dense(
        cls,
        conv: DenseConv,
        rank: RankLike = "x1",
        *,
        seed: int = 0,
        fit: bool = True,
        input_moment: Tensor | None = None,
        output_moment: Tensor | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Build the CP twin of a dense layer.

        Args:
            conv: ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d`` of this order, of exactly that class.
            rank: As in the constructor, or a rule that looks at the kernel (``'auto'``, ``'error...'``).
            seed: Of the decomposition.
            fit: Decompose the weights of ``conv``; False keeps the fresh initialisation.
            input_moment: Second moment of the input channels, to fit outputs instead of weights (see
                :func:`hocp_mm.functional.decompose`).
            output_moment: What an error of the output channels costs (see the same).
            options: Keyword arguments of the constructor: ``implementation``, ``gate_cfg``, ``dropout``, and for
                ``fit=False`` those of Psi.

        Returns:
            A layer with the same settings, dtype, device and training mode, a copy of the bias, and
            ``requires_grad`` of the weight on all factors and lambda. ``fit_report`` tells the error of the fit.

        Raises:
            TypeError: If ``conv`` is of another class; a subclass may compute something else.
            ValueError: If Psi is asked for and the weights are to be fitted.
        """
        if type(conv) is not cls.dense_class:
            raise TypeError(
                f"{cls.__name__}.from_dense: expected {cls.dense_class.__name__}, got {type(conv).__name__}."
            )
        psi = {name: options.get(name) for name in ("inner_norm_cfg", "inner_act_cfg")}
        if fit and any(cfg is not None for cfg in psi.values()):
            raise ValueError(
                f"{cls.__name__}.from_dense: Psi must be off when weights come from a dense network, got {psi} "
                "(fit=False starts from fresh ones)."
            )
        if fit:
            found = fit_dense(conv, rank, seed, input_moment, output_moment)
            layer = cls(**conv_arguments(conv), rank=found.kernel.rank, **options)
            layer.set_kernel(found.kernel)
            layer.fit_report = FitReport(found.relative_error, found.degeneracy)
        else:
            layer = cls(**conv_arguments(conv), rank=rank, **options)
        for parameter in (layer.weights, *layer.factors.values()):
            parameter.requires_grad_(conv.weight.requires_grad)
        if layer.bias is not None and conv.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(conv.bias)
            layer.bias.requires_grad_(conv.bias.requires_grad)
        return layer.train(conv.training)

    def transduct(self, size: int, init: Init = "central") -> "_HOCPConvNd":
        """Build the layer of one order more, such as an ``HOCPConv3d`` of an ``HOCPConv2d``, that starts as this one.

        With ``init`` central every frame has exactly the output it had (with Psi: in evaluation mode), and the number
        of frames stays. ``padding_mode`` then holds for time, too. For whole networks, and for causal factors, see
        :func:`hocp_mm.layers.transduct_`.

        Args:
            size: Taps of the new mode; odd, for a symmetric padding of ``size // 2``.
            init: Values of its factor; not ``'last'``.

        Returns:
            The new layer. Its old parameters are the same objects, running statistics of Psi are copies.

        Raises:
            NotImplementedError: If there is no layer of one order more, or statistics of Psi or the averages of the
                gate would no longer be those of a frame.
            ValueError: If ``size`` is even, or ``init`` is ``'last'``: the causal padding is not symmetric, and
                ``nn.ConvNd``'s words cannot say it.
        """
        video_class = _ONE_ORDER_MORE.get(type(self))
        if video_class is None:
            names = [layer.__name__ for layer in _ONE_ORDER_MORE]
            raise NotImplementedError(f"{type(self).__name__}.transduct: only {names} have a layer to become.")
        where = f"{type(self).__name__}.transduct"
        if size % 2 == 0 or init == "last":
            raise ValueError(
                f"{where}: size must be odd and init not 'last', got {size} and {init!r} (nn.ConvNd cannot pad one "
                "side only: use transduct_ on the network)."
            )
        if self.gate is not None and self.kernel_order == 1:
            raise NotImplementedError(
                f"{where}: a gate must average over the same sizes before and after, w is not h, w."
            )
        kernel = transduct(self.kernel(), size, init)
        inner = None if self.inner is None else lift_inner(self.inner, kernel.kernel_order)
        arguments = conv_arguments(self)
        for name, value in {"kernel_size": size, "stride": 1, "dilation": 1, "padding": size // 2}.items():
            if arguments[name] not in ("same", "tf_same"):  # which say it of every mode
                old = (0,) * self.kernel_order if arguments[name] == "valid" else arguments[name]
                arguments[name] = (value, *old)
        arguments["device"] = "meta"  # its parameters are replaced at once
        video = video_class(**arguments, rank=self.rank)
        video.share_(self)
        mode = kernel.convolved[0]
        video.factors[mode], video.inner = nn.Parameter(kernel.factors[mode]), inner
        return video

    def share_(self, layer: "_HOCPConvNd") -> None:
        """Take over the parameters (the same objects), modules and options of a layer of as many components."""
        layer.require_plain(f"{type(self).__name__}.share_")
        self.implementation: Implementation = layer.implementation
        self.recompute = layer.recompute
        self.weights, self.bias, self.inner, self.gate = layer.weights, layer.bias, layer.inner, layer.gate
        for name, factor in layer.factors.items():
            self.factors[name] = factor
        self.dropout, self.fit_report, self.training = layer.dropout, layer.fit_report, layer.training
        self.source_kernel = layer.source_kernel

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[batch, in, *sizes]`` or ``[in, *sizes]`` as ``nn.ConvNd`` does."""
        kernel = self._working_kernel()
        return cp_conv(
            x,
            kernel,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            padding_mode=self.padding_mode,
            implementation=self.implementation,
            inner=self.inner,
            gate=self._gate_for(kernel),
            recompute=self.recompute,
        )

    def _working_kernel(self) -> CPKernel:
        """Return the kernel of this forward pass: in training, some components may be dropped."""
        if isinstance(self.factors, nn.ParameterDict) and is_traced_to_torchscript():
            raise NotImplementedError(
                f"{type(self).__name__}: torch.jit.trace would make a file that cannot be loaded, as TorchScript "
                "cannot read 'factors.in' (trace hocp_mm.layers.exportable(model) instead)."
            )
        kernel = self.kernel()
        if not self.training or self.dropout == 0:
            return kernel
        return CPKernel(drop_components(kernel.weights, self.dropout, self.groups), kernel.factors, self.groups)

    def _gate_for(self, kernel: CPKernel) -> Pointwise | None:
        return None if self.gate is None else partial(self.gate, weights=kernel.weights)

    def extra_repr(self) -> str:
        """Describe the layer in the words of ``nn.ConvNd``, then the rank."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        neutral: Mapping[str, object] = {
            "padding": (0,) * self.kernel_order,
            "dilation": (1,) * self.kernel_order,
            "groups": 1,
            "padding_mode": "zeros",
            "implementation": "auto",
            "recompute": False,
            "dropout": 0,
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

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[batch, in, t, h, w]`` or ``[in, t, h, w]`` as ``nn.Conv3d`` does, and add what moves."""
        y = super().forward(x)
        if self.motion is None:
            return y
        clip = y if y.ndim == 5 else y.unsqueeze(0)
        moved = unfold_frames(self.motion(fold_frames(clip), clip.shape[2]), clip.shape[2])
        return moved if y.ndim == 5 else moved.squeeze(0)


_ONE_ORDER_MORE: Mapping[type, type[_HOCPConvNd]] = {HOCPConv1d: HOCPConv2d, HOCPConv2d: HOCPConv3d}
