"""The words that dense and CP convolutions are told, and the fit of one to the other."""

from typing import Any, NamedTuple, TypedDict

from torch import Tensor, nn

from hocp_mm.functional.cp_conv import Implementation
from hocp_mm.functional.decompose import Decomposition, decompose, decompose_to_error
from hocp_mm.functional.padding import expand_ints
from hocp_mm.functional.rank import RankLike, error_target, resolve_rank
from hocp_mm.layers.inner import Cfg
from hocp_mm.layers.motion import MotionOptions

DenseConv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class Options(TypedDict, total=False):
    """Keyword arguments of a CP layer besides those of ``nn.ConvNd`` and the rank."""

    implementation: Implementation
    recompute: bool
    inner_norm_cfg: Cfg | None
    inner_act_cfg: Cfg | None
    gate_cfg: Cfg | None
    dropout: float
    motion_cfg: MotionOptions | None


class FitReport(NamedTuple):
    """How well the components of a layer fit the dense kernel they come from (see ``Decomposition``)."""

    relative_error: float
    degeneracy: float


def conv_arguments(conv: nn.Module) -> dict[str, Any]:
    """Read the constructor arguments of a dense or CP convolution off the layer."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    reference = next(conv.parameters())
    own = {name: getattr(conv, name) for name in names}
    for name in ("stride", "padding", "dilation"):  # of which nn.ConvNd keeps a sequence of one as it is
        if not isinstance(own[name], str):
            own[name] = expand_ints(own[name], len(own["kernel_size"]), name)
    return {**own, "bias": conv.bias is not None, "device": reference.device, "dtype": reference.dtype}


def fit_dense(
    conv: DenseConv, rank: RankLike, seed: int, input_moment: Tensor | None, output_moment: Tensor | None
) -> Decomposition:
    """Decompose the weights of a dense layer; some rules for the rank look at them, too."""
    options: dict[str, Any] = {
        "groups": conv.groups, "seed": seed, "input_moment": input_moment, "output_moment": output_moment
    }  # fmt: skip
    target = error_target(rank)
    if target is not None:  # the search ends with the fit
        return decompose_to_error(conv.weight, target, **options)
    sizes = (conv.in_channels, conv.out_channels, tuple(conv.kernel_size), conv.groups)
    components = resolve_rank(rank, *sizes, dense=conv.weight)
    return decompose(conv.weight, components, **options)
