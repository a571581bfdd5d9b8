"""Change a module tree in place: dense to CP, image to video, frozen or not.

Verbs with a trailing underscore change the model they are given.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from hocp_mm.functional.rank import RankLike
from hocp_mm.functional.transduct import Init
from hocp_mm.layers.cp_conv import HOCPConv2d
from hocp_mm.layers.options import DenseConv, Options, conv_arguments
from hocp_mm.layers.selection import (
    CP,
    DENSE,
    HOCPConv,
    Patterns,
    RankRule,
    dense_layers,
    name_matcher,
    rank_rule,
)
from hocp_mm.layers.temporal import FrameAxis, FrameFoldedConv2d, FrameFoldedHOCPConv2d


def factorize_(
    model: nn.Module,
    rank: RankRule = "x1",
    *,
    layers: Patterns | None = None,
    fit: bool = True,
    seed: int = 0,
    input_moments: Mapping[str, Tensor] | None = None,
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
        options: Of all new layers (see ``from_dense``): ``implementation``, ``gate_cfg``, ``dropout``, and for
            ``fit=False`` those of Psi.

    Returns:
        Names of the replaced layers, in the order of ``named_modules``.

    Raises:
        KeyError: If ``rank`` is a mapping without an entry for a layer, or ``input_moments`` misses one.
        ValueError: If ``rank`` looks at weights (``'auto'``, ``'error0.1'``) and ``fit`` is False.
    """
    if layers is None and isinstance(rank, Mapping):
        convolutions = {name for name, module in model.named_modules() if isinstance(module, DENSE)}
        if rank and convolutions.issuperset(rank):
            layers = [f"^{re.escape(name)}$" for name in rank]
    selected = dense_layers(model, layers, where="factorize_")
    rule = rank_rule(model, rank)
    ranks = {name: rule(name) for name, _ in selected}
    for name in ranks:
        if input_moments is not None and name not in input_moments:
            raise KeyError(f"factorize_: input_moments must hold every layer, got none for '{name}'.")
    twins: dict[str, HOCPConv] = {}
    for name, conv in selected:
        moment = {} if input_moments is None else {"input_moment": input_moments[name]}
        twins[name] = cp_twin(conv, ranks[name], seed=seed, fit=fit, **moment, **options)
    for name, twin in twins.items():
        replace_(model, name, twin)
    return list(twins)


def cp_twin(conv: DenseConv, rank: RankLike, **options: Any) -> HOCPConv:
    """Build the HO-CP layer of a dense one (see ``from_dense``), which may be of a subclass that computes the same.

    Returns:
        The new layer.
    """
    order = len(conv.kernel_size)
    if type(conv) not in DENSE:  # such as torchvision's Conv3DSimple, which only chooses its own constructor arguments
        plain = DENSE[order - 1](**{**conv_arguments(conv), "device": "meta"}).train(conv.training)
        plain.weight, plain.bias = conv.weight, conv.bias
        conv = plain
    make: Any = CP[order - 1]
    return make.from_dense(conv, rank, **options)


def transduct_(
    model: nn.Module, size: int, init: Init = "central", *, layers: Patterns | None = None, frame_axis: FrameAxis
) -> list[str]:
    """Give convolutions of a 2-D network a temporal factor; the network then runs on folded frames.

    With ``init`` central or last every frame keeps exactly the output it had.

    Args:
        model: The network; changed. Its old parameters stay the same objects.
        size: Temporal taps; odd for ``central``.
        init: Values of the temporal factors.
        layers: Patterns on layer names. None takes every HO-CP layer and every grouped or depthwise ``k x k`` one.
        frame_axis: Where the layers read the number of frames.

    Returns:
        Names of the transducted layers.

    Raises:
        NotImplementedError: If a selected layer is neither an HO-CP layer nor ``nn.Conv2d`` itself.
        ValueError: If no layer is selected, or ``size`` and ``init`` do not fit.
    """
    wanted = None if layers is None else name_matcher(layers)
    selected: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, HOCPConv2d)) and (_sees_time(module) if wanted is None else wanted(name)):
            selected.append((name, module))
    if not selected:
        raise ValueError(f"transduct_: no layer can see time (layers={layers!r}; factorize_ first?).")
    for name, layer in selected:
        if type(layer) is HOCPConv2d:
            replace_(model, name, FrameFoldedHOCPConv2d.from_image_layer(layer, size, init, frame_axis))
        elif type(layer) is nn.Conv2d:
            replace_(model, name, FrameFoldedConv2d.from_image_layer(layer, size, init, frame_axis))
        else:
            raise NotImplementedError(
                f"transduct_: only HOCPConv2d and nn.Conv2d can see time, got {type(layer).__name__} (layer '{name}')."
            )
    return [name for name, _ in selected]


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


def _sees_time(layer: nn.Module) -> bool:
    if isinstance(layer, HOCPConv2d):
        return True
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and max(layer.kernel_size) > 1
