"""Put the weights of an image network into a stock MMAction2 backbone.

MMAction2 builds every convolution as a ``ConvModule`` and inflates 2-D weights itself, which needs a dense
``conv.weight`` and skips with a warning what does not fit. Here names are translated instead, and
:func:`load_image_weights_` does the rest, for dense and HO-CP convolutions alike:

    timm, torchvision          MMAction2
    conv1, bn1                 conv1.conv, conv1.bn
    layer1.0.conv2, .bn2       layer1.0.conv2.conv, .conv2.bn
    layer2.0.downsample.0, .1  layer2.0.downsample.conv, .bn
    features.0 (VGG-11)        conv1a.conv (C3D)

Backbones are known by the names of their layers, so this module does not need MMAction2: ``ResNet3d`` and what is
built like it (SlowOnly, I3D, R(2+1)D's twin with HO-CP convolutions), ``ResNet3dSlowFast``, ``C3D``, and the 2-D
``ResNet``. In SlowFast the 2-D weights fill the slow path; where lateral features are concatenated, its kernels get
input channels of zeros, as in ``ResNet3dPathway.inflate_weights``.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from hocp_mm.checkpoints.decomposition_cache import DecompositionCache
from hocp_mm.checkpoints.image_weights import load_image_weights_
from hocp_mm.checkpoints.reading import Weights, under_names
from hocp_mm.checkpoints.report import LoadReport
from hocp_mm.checkpoints.transfer_plan import TemporalInit
from hocp_mm.errors import CheckpointError
from hocp_mm.layers.selection import CP, DENSE, Patterns

# Where recognisers, our backbone and other people's networks keep the network; the first that occurs is stripped.
_PREFIXES = ("backbone.net.", "backbone.", "net.", "model.", "encoder.")
# Of ResNets, then of VGGs in torchvision and timm.
_CLASSIFIERS = ("fc", "classifier", "head", "pre_logits")
# What no image network has: the fast path and the laterals of SlowFast, and the two hidden layers of C3D, whose inputs
# are features of another size than VGG's. Non-local blocks are not here: after MMAction2's init_weights they are far
# from the identity, so that keeping them should be said.
_WITHOUT_IMAGE_TWIN = (r"^fast_path\.", r"_lateral\.", r"^fc[67]\.")
_CONV_MODULE_NAMES = (
    # A ConvModule calls its parts `conv` and `bn`; such names are right already.
    (re.compile(r"^((?:layer\d+\.\d+\.)?conv\d+)\.(?!conv\.|bn\.)"), r"\1.conv."),
    (re.compile(r"^((?:layer\d+\.\d+\.)?)bn(\d+)\."), r"\1conv\2.bn."),
    (re.compile(r"^(layer\d+\.\d+\.downsample)\.0\."), r"\1.conv."),
    (re.compile(r"^(layer\d+\.\d+\.downsample)\.1\."), r"\1.bn."),
)
_C3D_LAYERS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
_VGG_LAYER = re.compile(r"features\.([0-9]{1,6})\..")
_BEHIND_LATERAL = re.compile(r"^(.*)layer(\d+)\.0\.(?:conv1|downsample)\.conv$")


def load_stock_weights_(
    backbone: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    classifier: Collection[str] = (),
    seed: int = 0,
    allow_missing: bool = False,
    progress: Callable[[str], None] | None = None,
    cache: DecompositionCache | None = None,
    keep: Patterns = (),
    temporal_init: TemporalInit = "central",
) -> LoadReport:
    """Load an image network into a stock backbone, after its ``init_weights`` (which would reset the norms).

    What no image network has keeps its initialisation and is listed as kept: SlowFast's fast path and laterals, C3D's
    ``fc6`` and ``fc7``. For anything else say so: ``keep='non_local_block'`` for non-local blocks,
    ``keep='layer1.0.downsample'`` for SlowFast of depth 18 and 34, where laterals widen a shortcut that is the
    identity in the image network.

    Args:
        backbone: The receiver, without its recogniser; changed.
        state: Weights in the names of timm, torchvision or MMAction2, dense or CP; a backbone inside a recogniser's
            checkpoint is found, too.
        source: What to call the weights in the report and in errors.
        classifier: Name prefixes whose tensors the backbone does not want, besides ``fc``, ``classifier``, ``head``,
            ``pre_logits`` and what lies outside the backbone of a recogniser.
        seed: Of the decompositions.
        allow_missing: Load what fits, if there is anything, instead of refusing.
        progress: Called with a line of text for each decomposed layer.
        cache: Keeps decompositions on disk; None computes them all.
        keep: More patterns on names of tensors of the backbone that stay as they are.
        temporal_init: As in :func:`load_image_weights_`.

    Returns:
        The account of the transfer, in the names of the backbone.

    Raises:
        CheckpointError: If the backbone is built otherwise, or the weights do not fit; it is then unchanged.
    """
    renamed, (_, outside) = stock_names(backbone, state, source=source), _split(state)
    kept = [keep] if isinstance(keep, str) else list(keep)
    names = list(backbone.state_dict())
    for pattern in _WITHOUT_IMAGE_TWIN:
        found, given = (any(re.search(pattern, name) for name in group) for group in (names, renamed))
        if found and not given:  # the checkpoint of a trained SlowFast has them all
            kept.append(pattern)
    padded = _pad_input_channels_(backbone, renamed)
    report = load_image_weights_(
        backbone,
        Weights(under_names([*renamed.items(), *outside.items()], source), getattr(state, "notes", ())),
        source=source,
        classifier=(*classifier, *_CLASSIFIERS, *{name.split(".")[0] for name in outside}),
        seed=seed,
        allow_missing=allow_missing,
        progress=progress,
        cache=cache,
        keep=kept,
        temporal_init=temporal_init,
    )
    report.padded = padded
    return report


def stock_names(backbone: nn.Module, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Translate the names of an image network's tensors into those of a stock backbone.

    Args:
        backbone: The receiver; not changed.
        state: As in :func:`load_stock_weights_`.
        source: What to call the weights in errors.

    Returns:
        The same tensors (a bias that C3D has no place for is folded into its norm), those beside a backbone left out.
        Names without a counterpart stay as they are.

    Raises:
        CheckpointError: If the backbone is built otherwise, or a VGG has another number of convolutions than C3D.
    """
    return _translation(backbone)(_split(state)[0], source)


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Separate the backbone's weights, under its own names, from those beside it."""
    prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in state)), "")
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inside, {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


Translation = Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]


def _translation(backbone: nn.Module) -> Translation:
    """Choose how names of a source become those of a backbone, by the layers that this one has."""
    modules = dict(backbone.named_modules())

    def has(*names: str) -> bool:
        return all(isinstance(modules.get(f"{name}.conv"), (*CP, *DENSE)) for name in names)

    if has("slow_path.conv1", "slow_path.layer1.0.conv1", "fast_path.conv1"):
        return lambda state, source: _resnet_names(state, source, "slow_path.")
    if has("conv1", "layer1.0.conv1"):
        return lambda state, source: _resnet_names(state, source, "")
    if has(*_C3D_LAYERS):
        return lambda state, source: _c3d_names(state, source, biased=modules["conv1a.conv"].bias is not None)
    raise CheckpointError(
        "stock weights: a backbone must be built as ResNet3d, ResNet3dSlowFast or C3D are, with HO-CP or dense "
        f"convolutions (as 'layer1.0.conv1.conv', 'slow_path.conv1.conv', 'conv5b.conv'), got "
        f"{type(backbone).__name__} with {', '.join(name for name, _ in backbone.named_children()) or 'no layer'}."
    )


def _resnet_names(state: Mapping[str, Tensor], source: str, path: str) -> dict[str, Tensor]:
    """Give the tensors of a ResNet the names of ConvModules, those of its layers with ``path`` in front."""
    renamed: list[tuple[str, Tensor]] = []
    for old, tensor in state.items():
        name = old
        for pattern, replacement in _CONV_MODULE_NAMES:
            name = pattern.sub(replacement, name)
        belongs = re.match(r"(conv1|layer\d+)\.", name)
        renamed.append((path + name if belongs else name, tensor))
    return under_names(renamed, source)


def _c3d_names(state: Mapping[str, Tensor], source: str, biased: bool) -> dict[str, Tensor]:
    """Number the convolutions of a VGG as C3D does, which is a VGG-11; a norm belongs to the one before it."""
    numbers = {name: int(match[1]) for name in state if (match := _VGG_LAYER.match(name))}
    if not numbers:
        return dict(state)
    convs = sorted(number for name, number in numbers.items() if _is_kernel(name, state[name]))
    if len(convs) != len(_C3D_LAYERS):
        raise CheckpointError(
            f"stock weights: C3D has {len(_C3D_LAYERS)} convolutions, as VGG-11, got {len(convs)} ({source})."
        )
    new_names: list[tuple[str, Tensor]] = []
    for name, tensor in state.items():
        before = [number for number in convs if number <= numbers.get(name, -1)]
        if before:
            part = "conv" if numbers[name] in convs else "bn"
            name = f"{_C3D_LAYERS[len(before) - 1]}.{part}.{name.split('.', 2)[2]}"
        new_names.append((name, tensor))
    renamed = under_names(new_names, source)
    for layer in () if biased else _C3D_LAYERS:
        mean, bias = renamed.get(f"{layer}.bn.running_mean"), renamed.get(f"{layer}.conv.bias")
        if mean is not None and bias is not None and mean.shape == bias.shape:
            # A ConvModule with a norm has no bias, VGG has one before its norm: x + b - mean = x - (mean - b).
            renamed[f"{layer}.bn.running_mean"] = mean - renamed.pop(f"{layer}.conv.bias")
    return renamed


def _is_kernel(name: str, tensor: Tensor) -> bool:
    return (name.endswith(".weight") and tensor.ndim > 1) or name.endswith(".weights")


def _pad_input_channels_(backbone: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Widen kernels in ``state`` that will see lateral features, too; zeros leave those unseen at first.

    Returns:
        A line for each.
    """
    modules = dict(backbone.named_modules())
    padded: list[str] = []
    for name, module in modules.items():
        match = _BEHIND_LATERAL.match(name)
        if match is None:
            continue
        path, stage = match[1], int(match[2])
        lateral = modules.get(f"{path}{'conv1' if stage == 1 else f'layer{stage - 1}'}_lateral.conv")
        if lateral is None:
            continue
        conv, added = cast("Any", module), cast("Any", lateral).out_channels
        for leaf, axis in (("weight", 1), ("factors.in", 0)):
            tensor = state.get(f"{name}.{leaf}")
            if tensor is not None and tensor.ndim > axis and tensor.shape[axis] + added == conv.in_channels:
                zeros = tensor.new_zeros([added if d == axis else size for d, size in enumerate(tensor.shape)])
                state[f"{name}.{leaf}"] = torch.cat([tensor, zeros], dim=axis)
                padded.append(f"{name}: {tensor.shape[axis]} -> {conv.in_channels} input channels")
    return padded
