"""Weights of an image network as a timm backbone needs them: under its own names, for its channels and its blocks."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hocp_mm.checkpoints import (
    DecompositionCache,
    adapt_first_conv,
    classifier_prefixes,
    download_timm_weights,
    has_other_names,
    names_file,
    read_checkpoint,
    todays_names,
    unwrap_state_dict,
)
from hocp_mm.checkpoints.reading import under_names
from hocp_mm.checkpoints.renaming import LUKEMELAS, ONNX, Renamed
from hocp_mm.errors import CheckpointError
from hocp_mm.functional import RankLike, sufficient_rank
from hocp_mm.functional.rank import error_target
from hocp_mm.layers.selection import Patterns, RankRule, dense_layers, rank_rule
from hocp_mm.layers.variants import variant_of
from hocp_mm.models.backbones.timm_network import create_network, reparameterize_

# What mmengine's Runner and stock recognisers put in front of a backbone's own names.
_NET_PREFIXES = ("backbone.net.", "net.", "")


class ImageWeights(NamedTuple):
    """Weights of an image network.

    Attributes:
        state: Tensors by the network's names, dense or CP.
        title: What to call them.
        left_out: Name prefixes of what a backbone does not want: classifier, head of a recogniser.
        notes: Lines for the `LoadReport`.
    """

    state: Mapping[str, Tensor]
    title: str
    left_out: Collection[str]
    notes: Sequence[str] = ()


def read_image_weights(
    source: str, name: str, in_chans: int, options: Mapping[str, Any], *, fused: bool
) -> ImageWeights:
    """Fetch or read the weights of a timm network.

    Args:
        source: ``'timm'`` for timm's own pretrained weights, a timm model for that one's, else a file; a backbone
            inside a recogniser's checkpoint is found, too.
        name: Of the network in timm.
        in_chans: Input channels of the receiver; a first layer for 3 is adapted as timm does.
        options: More keyword arguments of ``timm.create_model``.
        fused: Whether the receiver's blocks are re-parameterised; weights that are not are fused first.

    Returns:
        The weights.

    Raises:
        CheckpointError: If they cannot be fetched or read.
    """
    left_out, notes = list(classifier_prefixes(name)), list[str]()
    if source == "timm" or not names_file(source):
        pretrained = name if source == "timm" else source
        state, title = download_timm_weights(pretrained, in_chans), f"timm '{pretrained}'"
    else:
        state, title = unwrap_state_dict(read_checkpoint(Path(source)), source), source
        prefix = next(p for p in _NET_PREFIXES if p == "" or any(key.startswith(p) for key in state))
        left_out += [] if prefix == "" else [k.split(".")[0] for k in state if not k.startswith(prefix)]
        notes = state.notes
        state = under_names(((key.removeprefix(prefix), tensor) for key, tensor in state.items()), title)
        if has_other_names(state):
            net, _ = create_network(name, in_chans, options)
            shapes = {key: tensor.shape for key, tensor in net.state_dict().items()}
            renamed = todays_names(state, shapes, title)
            left_out, notes = [*left_out, *renamed.left_out], [*notes, *renamed.state.notes]
            state = _same_function(net, name, renamed, notes)
        state = adapt_first_conv(name, state, in_chans)
    state = _fuse(state, title, name, in_chans, options) if fused else state
    return ImageWeights(state, title, left_out, notes)


def _same_function(net: nn.Module, name: str, renamed: Renamed, notes: list[str]) -> dict[str, Tensor]:
    """Let weights of another library compute what they did there, as far as weights can.

    Args:
        net: The receiver.
        name: Of the receiver in timm.
        renamed: The weights.
        notes: Grows by what was changed, and by what no weights can make up for.

    Returns:
        The weights; variances of norms are larger or smaller by the difference of the epsilons.
    """
    state = dict(renamed.state)
    changed: set[float] = set()
    for layer, norm in net.named_modules():
        variance = state.get(f"{layer}.running_var")
        if renamed.epsilon is None or variance is None or not isinstance(norm, _BatchNorm):
            continue
        if norm.eps != renamed.epsilon:
            state[f"{layer}.running_var"] = (variance + (renamed.epsilon - norm.eps)).clamp_min(0)
            changed.add(norm.eps)
    if changed:
        notes.append(
            f"norms have epsilon {renamed.epsilon:g} in {renamed.library} and {max(changed):g} in timm's '{name}', "
            "their variances make up for it"
        )
    padded = any(isinstance(module, Conv2dSame) for module in net.modules())  # as TensorFlow does
    if renamed.library == ONNX:
        notes.append("how the exported network pads images was not compared")
    elif renamed.library is not None and padded != (renamed.library == LUKEMELAS):
        notes.append(
            f"{renamed.library} pads images otherwise than '{name}', so features are not the same; take timm's network "
            f"{'without' if padded else 'with'} 'tf_' in its name"
        )
    return state


def resolve_ranks(
    net: nn.Module,
    rank: RankRule,
    layers: Patterns,
    state: Mapping[str, Tensor],
    cache: DecompositionCache,
    seed: int,
) -> RankRule:
    """Turn ranks that look at weights into numbers.

    Args:
        net: The dense network.
        rank: As in :func:`hocp_mm.layers.factorize_`.
        layers: The same; none for no layer.
        state: Weights by the names of ``net``, dense or CP.
        cache: Keeps the fits behind ``'error<e>'``.
        seed: Of these fits.

    Returns:
        ``rank`` itself, or one number per layer where a rule looks at weights.
    """
    if not list(layers):
        return rank
    rule, ranks, looked = rank_rule(net, rank), dict[str, RankLike](), False
    for name, conv in dense_layers(net, layers, where="TimmHOCPBackbone"):
        ranks[name] = rule(name)
        target = error_target(ranks[name])
        if ranks[name] != "auto" and target is None:
            continue
        looked = True
        ranks[name] = conv.groups  # where weights do not say another, the account of the transfer will say why
        if f"{name}.weights" in state:  # a CP layer, whose rank is known if a factor has it, too
            found = state[f"{name}.weights"].numel()
            factor = state.get(f"{name}.factors.out")
            if factor is not None and tuple(factor.shape) == (conv.out_channels, found):
                ranks[name] = found
            continue
        variant = variant_of(conv)
        made = None if variant is None else variant.standardization
        tensors = {leaf: state.get(f"{name}.{leaf}") for leaf in (("weight",) if made is None else made.names)}
        own = conv.state_dict()
        if any(tensor is None or (key in own and tensor.shape != own[key].shape) for key, tensor in tensors.items()):
            continue
        dense: Any = tensors["weight"] if made is None else made(tensors)  # type: ignore[arg-type]
        if target is None:
            ranks[name] = sufficient_rank(dense, conv.groups, seed=seed)
        else:
            ranks[name] = cache.decompose_to_error(dense, target, groups=conv.groups, seed=seed).kernel.rank
    return ranks if looked else rank


@torch.no_grad()
def _fuse(
    state: Mapping[str, Tensor], title: str, name: str, in_chans: int, options: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """Re-parameterise weights of a network with branches; those of a fused one, dense or CP, stay."""
    net, _ = create_network(name, in_chans, options)
    own = net.state_dict()
    if not own.keys() <= state.keys():
        return state
    wrong = [key for key in own if state[key].shape != own[key].shape]
    if wrong:
        shapes = f"{wrong[0]} {tuple(state[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}"
        raise CheckpointError(
            f"checkpoint: weights to fuse must be those of '{name}', got {len(wrong)} of other shapes ({shapes}) "
            f"in {title}."
        )
    net.load_state_dict({key: state[key] for key in own})
    reparameterize_(net)
    rest = {key: tensor for key, tensor in state.items() if key not in own}
    return {**net.state_dict(), **rest}
