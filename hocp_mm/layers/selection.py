"""Which layers an operation is about, by pattern, full name or kind, and which rank each of them gets."""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from hocp_mm.functional.rank import RankLike
from hocp_mm.layers.cp_conv import HOCPConv1d, HOCPConv2d, HOCPConv3d
from hocp_mm.layers.options import DenseConv
from hocp_mm.layers.variants import variant_of

Patterns = str | Iterable[str]
RankRule = RankLike | Mapping[str, RankLike]
HOCPConv = HOCPConv1d | HOCPConv2d | HOCPConv3d

DENSE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)  # by order, as the next
CP = (HOCPConv1d, HOCPConv2d, HOCPConv3d)


def name_matcher(patterns: Patterns) -> Callable[[str], bool]:
    """Make a test for dotted names: true where any of the regular expressions is found in the name.

    Returns:
        A function from a name to True or False.

    Raises:
        ValueError: If one of them is no regular expression.

    Example:
        >>> matches = name_matcher(["layer4", "factors.t$"])
        >>> matches("net.layer1.0.conv1.factors.t"), matches("net.layer1.0.conv1.factors.w")
        (True, False)
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except (re.error, TypeError) as error:
        raise ValueError(f"name_matcher: patterns must be regular expressions, got {patterns!r} ({error}).") from error
    return lambda name: any(pattern.search(name) for pattern in compiled)


def is_factorizable(conv: nn.Module) -> bool:
    """Tell whether a layer becomes an HO-CP one by default: dense, more than one tap, more than 4 input channels."""
    # A stem of 3 channels is kept: expansion 1 would leave it 3 filters, and it holds under 1 % of the weights.
    return isinstance(conv, DENSE) and conv.groups == 1 and max(conv.kernel_size) > 1 and conv.in_channels > 4


def sees_time(layer: nn.Module) -> bool:
    """Tell whether a 2-D layer gets a temporal factor by default: HO-CP, or grouped with more than one tap."""
    if isinstance(layer, HOCPConv2d):
        return True
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and max(layer.kernel_size) > 1


def dense_layers(model: nn.Module, layers: Patterns | None, *, where: str) -> list[tuple[str, DenseConv]]:
    """Select the dense convolutions that an operation is about.

    Args:
        model: The network.
        layers: Patterns on layer names; None takes those of :func:`is_factorizable`.
        where: Name of the operation, for errors.

    Returns:
        Names and layers, in the order of ``named_modules``.

    Raises:
        NotImplementedError: If a selected layer is of a subclass with a forward pass that is not known
            (:mod:`hocp_mm.layers.variants`).
        ValueError: If ``layers`` matches no convolution.
    """
    wanted = None if layers is None else name_matcher(layers)
    selected = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, DENSE) and (is_factorizable(module) if wanted is None else wanted(name))
    ]
    if wanted is not None and not selected:
        raise ValueError(f"{where}: layers must match a dense convolution, got {layers!r} (none matches).")
    for name, conv in selected:
        if variant_of(conv) is None:
            base = DENSE[len(conv.kernel_size) - 1].__name__
            raise NotImplementedError(
                f"{where}: a layer must compute as nn.{base} or as timm's variants of it (patterns can leave it out), "
                f"got {type(conv).__name__} (layer '{name}')."
            )
    return selected


def cp_layers(model: nn.Module, layers: Patterns | None, *, where: str) -> list[tuple[str, HOCPConv]]:
    """Select the HO-CP layers that an operation is about.

    Args:
        model: The network.
        layers: Patterns on layer names; None takes all.
        where: Name of the operation, for errors.

    Returns:
        Names and layers, in the order of ``named_modules``.

    Raises:
        ValueError: If there is none.
    """
    wanted = None if layers is None else name_matcher(layers)
    selected = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, CP) and (wanted is None or wanted(name))
    ]
    if not selected:
        raise ValueError(
            f"{where}: the model must hold an HO-CP layer, got none (layers={layers!r}; factorize_ first?)."
        )
    return selected


def rank_rule(model: nn.Module, rule: RankRule) -> Callable[[str], RankLike]:
    """Turn a rank, or a mapping from names and patterns to ranks, into a function of the layer's name.

    Args:
        model: The network whose layers have the names.
        rule: As in :func:`hocp_mm.layers.factorize_`.

    Returns:
        The function; it raises KeyError for a layer without a rank.
    """
    if not isinstance(rule, Mapping):
        return lambda _: rule
    names = {name for name, module in model.named_modules() if isinstance(module, DENSE)}
    patterns = [pattern for pattern in rule if pattern not in names]

    def rank_of(name: str) -> RankLike:
        if name in rule:
            return rule[name]
        for pattern in patterns:
            if re.search(pattern, name):
                return rule[pattern]
        raise KeyError(
            f"factorize_: rank must hold the name of every layer or a pattern for it, got none for '{name}' "
            f"(keys {list(rule)})."
        )

    return rank_of
