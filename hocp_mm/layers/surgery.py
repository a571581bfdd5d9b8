"""Change a module tree in place: dense to CP, 2-D to video, frozen or not.

Verbs with a trailing underscore change the model they are given.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from hocp_mm.functional.rank import RankLike
from hocp_mm.functional.transduct import Init
from hocp_mm.layers.cp_conv import HOCPConv2d
from hocp_mm.layers.temporal import FrameAxis, FrameFoldedConv2d, FrameFoldedHOCPConv2d

Patterns = str | Iterable[str]
RankRule = RankLike | Mapping[str, RankLike]


def name_matcher(patterns: Patterns) -> Callable[[str], bool]:
    """Make a test for dotted names: true where any of the regular expressions is found in the name.

    Returns:
        A function from a name to True or False.

    Example:
        >>> matches = name_matcher(["layer4", "factors.t$"])
        >>> matches("net.layer1.0.conv1.factors.t"), matches("net.layer1.0.conv1.factors.w")
        (True, False)
    """
    compiled = [re.compile(p) for p in ([patterns] if isinstance(patterns, str) else patterns)]
    return lambda name: any(pattern.search(name) for pattern in compiled)


def is_factorizable(conv: nn.Module) -> bool:
    """Tell whether a layer becomes an HO-CP one by default: dense, ``k x k``, more than 4 input channels."""
    # A stem of 3 channels is kept: expansion 1 would leave it 3 filters, and it holds under 1 % of the weights.
    return isinstance(conv, nn.Conv2d) and conv.groups == 1 and max(conv.kernel_size) > 1 and conv.in_channels > 4


def factorize_(
    model: nn.Module,
    rank: RankRule = "x1",
    *,
    layers: Patterns | None = None,
    fit: bool = True,
    seed: int = 0,
) -> list[str]:
    """Replace dense 2-D convolutions by HO-CP ones.

    Args:
        model: The network; changed.
        rank: Components per layer (see :func:`hocp_mm.functional.resolve_rank`), or a mapping from patterns on
            layer names to that; the first pattern that matches counts.
        layers: Patterns on layer names: which ``nn.Conv2d`` to replace, 1x1 and grouped ones included. None takes
            those of :func:`is_factorizable`.
        fit: Decompose the weights; False keeps a fresh initialisation, for training from scratch or for weights
            that are loaded next.
        seed: Of the decompositions.

    Returns:
        Names of the replaced layers, in the order of ``named_modules``.

    Raises:
        NotImplementedError: If a selected layer is a subclass of ``nn.Conv2d``, which may compute something else.
        KeyError: If ``rank`` is a mapping without a pattern for a layer.
        ValueError: If ``layers`` matches no convolution.
    """
    wanted = None if layers is None else name_matcher(layers)
    selected = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and (is_factorizable(module) if wanted is None else wanted(name))
    ]
    if wanted is not None and not selected:
        raise ValueError(f"factorize_: layers must match a 2-D convolution, got {layers!r} (none matches).")
    for name, conv in selected:
        if type(conv) is not nn.Conv2d:
            raise NotImplementedError(
                f"factorize_: only nn.Conv2d itself can be factorized, got {type(conv).__name__} (layer '{name}')."
            )
        replace_(model, name, HOCPConv2d.from_dense(conv, _rank_of(name, rank), seed=seed, fit=fit))
    return [name for name, _ in selected]


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
    """Put ``module`` in the place of the submodule with the dotted ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


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


def _rank_of(name: str, rule: RankRule) -> RankLike:
    if not isinstance(rule, Mapping):
        return rule
    for pattern, rank in rule.items():
        if re.search(pattern, name):
            return rank
    raise KeyError(
        f"factorize_: rank must hold a pattern for every layer, got none for '{name}' (patterns {list(rule)})."
    )
