"""Change a module tree in place: dense to CP, image to video, frozen or not.

Verbs with a trailing underscore change the model they are given.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from hocp_mm.functional.rank import RankLike
from hocp_mm.functional.transduct import Init
from hocp_mm.layers.cp_conv import HOCPConv2d
from hocp_mm.layers.motion import MotionComponents, MotionOptions
from hocp_mm.layers.options import DenseConv, Options
from hocp_mm.layers.selection import (
    CP,
    DENSE,
    HOCPConv,
    Patterns,
    RankRule,
    dense_layers,
    name_matcher,
    rank_rule,
    sees_time,
)
from hocp_mm.layers.temporal import FrameAxis, FrameFoldedConv2d, FrameFoldedHOCPConv2d, has_temporal_factor
from hocp_mm.layers.variants import variant_of


def factorize_(
    model: nn.Module,
    rank: RankRule = "x1",
    *,
    layers: Patterns | None = None,
    fit: bool = True,
    seed: int = 0,
    input_moments: Mapping[str, Tensor] | None = None,
    output_moments: Mapping[str, Tensor] | None = None,
    **options: Unpack[Options],
) -> list[str]:
    """Replace dense convolutions of 1 to 3 modes by HO-CP ones.

    Args:
        model: The network; changed, or not at all if something is refused.
        rank: Components per layer (see :func:`hocp_mm.functional.resolve_rank`), or a mapping to that. A key that is
            the full name of a convolution stands for that layer alone; others are patterns on layer names, tried in
            their order where no name fits.
        layers: Patterns on layer names: which convolutions to replace, 1x1 and grouped ones included. None takes
            those of :func:`hocp_mm.layers.selection.is_factorizable`; with a mapping of full names only, as
            :func:`hocp_mm.layers.allocate_ranks` makes, exactly those.
        fit: Decompose the weights; False keeps a fresh initialisation, for training from scratch or for weights
            that are loaded next.
        seed: Of the decompositions.
        input_moments: For each layer, the second moment of its input, to fit outputs instead of weights.
        output_moments: For each layer, what an error of its output costs the network's, to fit that
            (:func:`hocp_mm.layers.output_moments`).
        options: Of all new layers (see ``from_dense``): ``implementation``, ``gate_cfg``, ``dropout``, and for
            ``fit=False`` those of Psi.

    Returns:
        Names of the replaced layers, in the order of ``named_modules``.

    Raises:
        KeyError: If ``rank`` is a mapping without an entry for a layer, or ``input_moments`` or
            ``output_moments`` misses one.
        ValueError: If ``rank`` looks at weights (``'auto'``, ``'error0.1'``) and ``fit`` is False.
    """
    if layers is None and isinstance(rank, Mapping):
        convolutions = {name for name, module in model.named_modules() if isinstance(module, DENSE)}
        if rank and convolutions.issuperset(rank):
            layers = [f"^{re.escape(name)}$" for name in rank]
    selected = dense_layers(model, layers, where="factorize_")
    rule = rank_rule(model, rank)
    ranks = {name: rule(name) for name, _ in selected}
    moments = {"input_moment": input_moments, "output_moment": output_moments}
    for option, held in moments.items():
        for name in ranks:
            if held is not None and name not in held:
                raise KeyError(f"factorize_: {option}s must hold every layer, got none for '{name}'.")
    twins: dict[str, HOCPConv] = {}
    for name, conv in selected:
        own = {option: held[name] for option, held in moments.items() if held is not None}
        twins[name] = cp_twin(conv, ranks[name], seed=seed, fit=fit, **own, **options)
    for name, twin in twins.items():
        replace_(model, name, twin)
    return list(twins)


def cp_twin(conv: DenseConv, rank: RankLike, **options: Any) -> HOCPConv:
    """Build the HO-CP layer of a dense one (see ``from_dense``), which may be of a known subclass.

    A standardised kernel is taken as it is used. The new layer remembers how it was made (``source_kernel``), so that
    weights of the old kind can be loaded into it; a fresh kernel gets the size of a standardised one with a gain.

    Returns:
        The new layer.

    Raises:
        NotImplementedError: If it is not known what the layer computes.
    """
    variant = variant_of(conv)
    if variant is None:
        raise NotImplementedError(f"cp_twin: only a known kind of convolution has a twin, got {type(conv).__name__}.")
    make: Any = CP[len(conv.kernel_size) - 1]
    layer: HOCPConv = make.from_dense(variant.plain(conv), rank, **options)
    if variant.follows_size:
        layer.padding = "tf_same"
    layer.source_kernel = variant.standardization
    if not options.get("fit", True) and variant.standardization is not None and variant.standardization.scale:
        _scale_as_standardized_(layer, variant.standardization.scale, conv.get_parameter("gain"))
    return layer


@torch.no_grad()
def _scale_as_standardized_(layer: HOCPConv, scale: float, gain: Tensor) -> None:
    """Give a fresh kernel of variance ``2 / fan_in`` the variance ``(scale gain)^2`` that a standardised one has."""
    fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    filters = layer.factors["out"].unflatten(-1, (layer.groups, -1))  # [out / groups, groups, rank / groups]
    filters.mul_(scale * (fan_in / 2) ** 0.5 * gain.view(layer.groups, -1).T.unsqueeze(-1))


class Motion(MotionOptions, total=False):
    """Which layers get motion components: words of :class:`hocp_mm.layers.MotionComponents`, and patterns on names.

    Attributes:
        layers: Patterns; None takes all layers that get a temporal factor.
    """

    layers: Patterns | None


def transduct_(
    model: nn.Module,
    size: int,
    init: Init = "central",
    *,
    layers: Patterns | None = None,
    frame_axis: FrameAxis,
    motion: Motion | None = None,
) -> list[str]:
    """Give convolutions of a 2-D network a temporal factor; the network then runs on folded frames.

    With ``init`` central or last every frame keeps exactly the output it had.

    Args:
        model: The network; changed. Its old parameters stay the same objects.
        size: Temporal taps; odd for ``central``.
        init: Values of the temporal factors.
        layers: Patterns on layer names. None takes every HO-CP layer and every grouped or depthwise ``k x k`` one.
        frame_axis: Where the layers read the number of frames.
        motion: Of the motion components that are added to what the layers give; None for none.

    Returns:
        Names of the transducted layers.

    Raises:
        NotImplementedError: If a selected layer is neither an HO-CP layer nor a known kind of ``nn.Conv2d``
            (:mod:`hocp_mm.layers.variants`).
        ValueError: If no layer is selected, for time or for motion, or one sees time already, or ``size`` and ``init``
            do not fit. The network is then as it was.
    """
    wanted = None if layers is None else name_matcher(layers)
    selected: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, HOCPConv2d)) and (sees_time(module) if wanted is None else wanted(name)):
            selected.append((name, module))
    if not selected:
        raise ValueError(f"transduct_: no layer can see time (layers={layers!r}; factorize_ first?).")
    for name, layer in selected:
        if has_temporal_factor(layer):
            raise ValueError(f"transduct_: layers must match none that sees time already, got {layers!r} ('{name}').")
        if type(layer) is not HOCPConv2d and (isinstance(layer, HOCPConv2d) or variant_of(layer) is None):
            raise NotImplementedError(
                "transduct_: a layer that sees time must be an HOCPConv2d, an nn.Conv2d or timm's variants of it "
                f"(patterns can leave it out), got {type(layer).__name__} (layer '{name}')."
            )
    folded: dict[str, Any] = {}
    for name, layer in selected:
        kind: Any = FrameFoldedHOCPConv2d if isinstance(layer, HOCPConv2d) else FrameFoldedConv2d
        folded[name] = kind.from_image_layer(layer, size, init, frame_axis)
    if motion is not None:
        _add_motion(folded, **motion)  # before the network changes: what is refused leaves it alone
    for name, layer in folded.items():
        replace_(model, name, layer)
    return list(folded)


def add_motion_(model: nn.Module, *, layers: Patterns | None = None, **options: Unpack[MotionOptions]) -> list[str]:
    """Let layers with a temporal factor see how fast something changes; what the network gives stays until it trains.

    Args:
        model: The network, as :func:`transduct_` leaves it; changed.
        layers: Patterns on layer names; None takes all layers with a temporal factor and no motion components yet.
        options: ``rank`` and ``rectifier`` of :class:`hocp_mm.layers.MotionComponents`.

    Returns:
        Names of the layers.

    Raises:
        ValueError: If ``layers`` matches none with a temporal factor, or one that has motion components, which would
            be lost; if one has a single tap, or a word does not fit. The network is then as it was.
    """
    folded = {name: layer for name, layer in model.named_modules() if has_temporal_factor(layer)}
    return _add_motion(folded, layers=layers, **options)


def _add_motion(
    folded: Mapping[str, Any], *, layers: Patterns | None = None, **options: Unpack[MotionOptions]
) -> list[str]:
    matches = name_matcher("" if layers is None else layers)
    chosen = {n: layer for n, layer in folded.items() if (layers is not None or layer.motion is None) and matches(n)}
    if not chosen:
        raise ValueError(f"add_motion_: layers must match one with a temporal factor, got {layers!r}.")
    parts: dict[str, MotionComponents] = {}
    for name, layer in chosen.items():
        if layer.motion is not None:
            raise ValueError(f"add_motion_: layers must match none with motion components, got {layers!r} ('{name}').")
        taps = layer.factors["t"]
        parts[name] = MotionComponents(layer.out_channels, len(taps), layer.before, **options).to(taps)
    for name, part in parts.items():
        chosen[name].motion = part
    return list(chosen)


def replace_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` in the place of the submodule with the dotted ``name``, under every name that one has.

    Args:
        model: The network; changed.
        name: Of the old submodule.
        module: The new one.

    Raises:
        ValueError: If the submodule is the model itself, which has no place in it.
    """
    old = model.get_submodule(name)
    if old is model:
        raise ValueError(f"replace_: a layer must lie inside the model, got the model itself ({type(old).__name__}).")
    for parent in list(model.modules()):
        # Not named_children, which leaves out the second name that a module has in one parent.
        for child, present in list(parent._modules.items()):
            if present is old:
                setattr(parent, child, module)


def freeze_all_but_(model: nn.Module, patterns: Patterns) -> list[str]:
    """Let only the parameters with a matching name train.

    Args:
        model: The network; ``requires_grad`` of all its parameters is set.
        patterns: Patterns on parameter names.

    Returns:
        Names of the parameters that train.

    Raises:
        ValueError: If nothing matches; a typing error would freeze the whole network.
    """
    matches = name_matcher(patterns)
    trained = [name for name, _ in model.named_parameters() if matches(name)]
    if not trained:
        raise ValueError(f"freeze_all_but_: patterns must match a parameter, got {patterns!r}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(matches(name))
    return trained
