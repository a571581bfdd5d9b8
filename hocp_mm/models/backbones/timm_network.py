"""A timm network as a source of feature maps: its stages, its own head, its re-parameterisable blocks.

The network keeps timm's names, so that timm's files fill it. Stages after the last one asked for are cut off, so that
no parameter is without gradient.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import timm
from timm.layers.classifier import NormMlpClassifierHead
from timm.models import FeatureInfo
from timm.utils.model import reparameterize_model  # timm.models has it in newer releases alone
from torch import Tensor, nn

from hocp_mm.checkpoints import check_timm_name
from hocp_mm.layers import FrameFoldedConv2d, HOCPConv2d

# Keyword arguments of timm.create_model that the backbone says in words of its own.
_OWN_WORDS = {
    "in_chans": "in_chans", "pretrained": "pretrained", "checkpoint_path": "checkpoint", "pretrained_cfg": "checkpoint",
    "pretrained_cfg_overlay": "checkpoint", "features_only": "out_indices", "out_indices": "out_indices",
}  # fmt: skip
_FUSING = ("fuse", "reparameterize", "switch_to_deploy")  # what timm's reparameterize_model calls


def check_arguments(name: Any, checkpoint: Any, size: Any, out_indices: Any, in_chans: Any) -> None:
    """Refuse what is not of the kind that it should be, before anything fails deep inside.

    Raises:
        TypeError: Names the argument.
    """

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    stages = isinstance(out_indices, Sequence) and not isinstance(out_indices, str) and all(map(whole, out_indices))
    for argument, value, kind, fits in (
        ("model_name", name, "a string", isinstance(name, str)),
        ("checkpoint", checkpoint, "a path or None", checkpoint is None or isinstance(checkpoint, (str, PathLike))),
        ("temporal_kernel", size, "an int", whole(size)),
        ("out_indices", out_indices, "a list of ints", stages),
        ("in_chans", in_chans, "an int", whole(in_chans)),
    ):
        if not fits:
            raise TypeError(f"TimmHOCPBackbone: {argument} must be {kind}, got {value!r}.")


def create_network(name: str, in_chans: int, options: Mapping[str, Any] | None) -> tuple[nn.Module, list[str]]:
    """Build a timm network without classifier and with random weights.

    Args:
        name: Name in timm.
        in_chans: Input channels.
        options: More keyword arguments of ``timm.create_model``.

    Returns:
        The network, with timm's own parameter names, and the names of the classifier's tensors, which it has not.

    Raises:
        UnknownModelError: If timm does not know the name.
        ValueError: If ``in_chans`` is not positive, or an option is one of the backbone's own arguments.
        NotImplementedError: If this timm cannot give the stages of the network.
    """
    check_timm_name(name)
    if in_chans < 1:
        raise ValueError(f"TimmHOCPBackbone: in_chans must be at least 1, got {in_chans}.")
    if taken := sorted(_OWN_WORDS.keys() & (options or {}).keys()):
        words = ", ".join(sorted({_OWN_WORDS[option] for option in taken}))
        raise ValueError(f"TimmHOCPBackbone: timm_options must leave {', '.join(taken)} to {words} of the backbone.")
    net: Any = timm.create_model(name, in_chans=in_chans, **(options or {}))
    if not hasattr(net, "forward_intermediates"):
        raise NotImplementedError(
            f"TimmHOCPBackbone: the network must have forward_intermediates, got '{name}' of timm {timm.__version__} "
            "(later versions give it to every network)."
        )
    names = list(net.state_dict())
    net.reset_classifier(0)
    own = net.state_dict().keys()
    return net, [key for key in names if key not in own]


class Stages(NamedTuple):
    """Which feature maps of a timm network are returned.

    Attributes:
        indices: Of the stages, from 0.
        channels: Of each stage, and of the head features behind them.
        head: Whether timm's own head features (final norm, head convolution, pooling) come last, ``[B, C, 1, 1]``.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    head: bool

    def read(self, net: nn.Module, images: Tensor) -> list[Tensor]:
        """Run the network.

        Args:
            net: The network.
            images: ``[B, in, H, W]``.

        Returns:
            One map ``[B, C, H', W']`` per stage, then the head features.

        Raises:
            ValueError: If the head does not pool.
        """
        network: Any = net
        if not self.head:
            return network.forward_intermediates(
                images, indices=list(self.indices), output_fmt="NCHW", intermediates_only=True
            )
        indices = list(self.indices) or [len(network.feature_info) - 1]
        last, maps = network.forward_intermediates(images, indices=indices, output_fmt="NCHW")
        pooled = network.forward_head(last, pre_logits=True).flatten(1)
        if pooled.shape[1] != self.channels[-1]:
            raise ValueError(
                f"TimmHOCPBackbone: head_features need a network that pools to {self.channels[-1]} channels, got "
                f"{pooled.shape[1]} (timm_options with another global_pool?)."
            )
        return [*(maps if self.indices else []), pooled[:, :, None, None]]


def choose_stages(net: nn.Module, name: str, out_indices: Sequence[int], head: bool) -> tuple[Stages, list[str]]:
    """Choose the stages of a network and cut off what comes after them.

    Args:
        net: The network; changed.
        name: Of the network, for errors.
        out_indices: Of the stages; negative ones count from the last.
        head: Whether the head features are wanted, too; nothing is then cut off.

    Returns:
        The stages, and the names of tensors that were cut off.

    Raises:
        ValueError: If there is no such stage, stages are not in order, or nothing is asked for.
    """
    network: Any = net
    info = network.feature_info
    known = info if isinstance(info, FeatureInfo) else FeatureInfo(info, tuple(range(len(info))))
    count = len(known)
    if not (out_indices or head) or any(not -count <= index < count for index in out_indices):
        raise ValueError(
            f"TimmHOCPBackbone: out_indices must name stages of '{name}' between {-count} and {count - 1}"
            f"{'' if head else ', at least one'}, got {tuple(out_indices)}."
        )
    indices = tuple(index % count for index in out_indices)
    if list(indices) != sorted(set(indices)):  # timm returns stages in the order of the network
        raise ValueError(f"TimmHOCPBackbone: out_indices must increase, got {tuple(out_indices)} of {count} stages.")
    channels = known.channels(list(indices))
    if head:
        return Stages(indices, (*channels, network.head_hidden_size), True), []
    before = list(net.state_dict())
    if hasattr(net, "prune_intermediate_layers"):
        network.prune_intermediate_layers(list(indices), prune_norm=True, prune_head=True)
        if isinstance(getattr(net, "head", None), NormMlpClassifierHead):
            network.head = nn.Identity()  # up to timm 1.0.26 its norm stays, and would get no gradient
    after = net.state_dict().keys()
    return Stages(indices, tuple(channels), False), [key for key in before if key not in after]


def reparameterize_(net: nn.Module) -> None:
    """Fuse the branches of re-parameterisable blocks (RepVGG, MobileOne, FastViT, ...) into one convolution each."""
    reparameterize_model(net, inplace=True)


def forbid_fusing_(net: nn.Module) -> None:
    """Let timm's ``reparameterize_model`` end in an error where it would drop temporal factors without a word.

    A depthwise layer with a temporal factor still has a ``weight``, and that is all that timm's fusion looks at.

    Args:
        net: The converted network; blocks that hold a CP kernel or a temporal factor are changed.
    """
    for block in net.modules():
        if any(isinstance(part, (HOCPConv2d, FrameFoldedConv2d)) for part in block.modules()):
            for method in _FUSING:
                if callable(getattr(block, method, None)):
                    setattr(block, method, _refuse_fusing)


def _refuse_fusing(*args: object, **kwargs: object) -> None:
    raise NotImplementedError(
        "TimmHOCPBackbone: blocks can be fused before CP kernels and temporal factors are put in "
        "(reparameterize=True), not afterwards: timm would drop the temporal factors."
    )
