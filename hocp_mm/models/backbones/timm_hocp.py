"""A timm CNN as a video backbone with HO-CP kernels."""

import logging
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from hocp_mm.checkpoints import (
    DecompositionCache,
    LoadReport,
    Weights,
    follow_ranks_,
    load_image_weights_,
    require_finite,
)
from hocp_mm.errors import CheckpointError
from hocp_mm.functional import Init, fold_frames, unfold_frames
from hocp_mm.layers import FrameAxis, Motion, name_matcher
from hocp_mm.layers.few_channels import make_trainable_
from hocp_mm.layers.options import Options
from hocp_mm.layers.selection import Patterns, RankRule, sees_time
from hocp_mm.models.backbones.calibration import calibrate, fill_dense_
from hocp_mm.models.backbones.checkpointing import enable_checkpointing_, remember_frames
from hocp_mm.models.backbones.conversion import convert_, exactly, layers_to_factorize
from hocp_mm.models.backbones.timm_network import (
    check_arguments,
    choose_stages,
    create_network,
    forbid_fusing_,
    reparameterize_,
)
from hocp_mm.models.backbones.timm_weights import ImageWeights, read_image_weights, resolve_ranks
from hocp_mm.registry import MODELS

_logger = logging.getLogger("hocp_mm")


@MODELS.register_module()
class TimmHOCPBackbone(BaseModule):
    """Run a timm CNN on clips: dense ``k x k`` kernels in CP form, time as one more factor.

    Frames are folded into the batch, so every other layer of the network stays what it is. With ``temporal_init``
    central or last and no training, every frame's features equal those of the same HO-CP network without temporal
    factors. Fitting CP kernels to dense weights is approximate; the :class:`LoadReport` tells the errors.

    Depthwise and grouped ``k x k`` layers are kept and get a temporal factor. Layers with padding that follows the size
    and weight-standardised ones are taken as what they compute (:mod:`hocp_mm.layers.variants`). Stochastic depth draws
    for every frame.

    Args:
        model_name: Name in timm, such as ``'resnet18'``.
        pretrained: Start from timm's own weights, decomposed to ``rank``.
        checkpoint: Or start from a file (``.safetensors``, ``.pth``) with an image network's weights, dense or CP.
        rank: Components per layer: an int, ``'x1'`` (expansion over the input channels), ``'same'`` (parameter
            parity), with weights at hand also ``'auto'`` or ``'error0.1'``, or a mapping from patterns on layer names
            to those.
        temporal_kernel: Taps in time; 1 gives the image network (no temporal factors), which still takes clips.
        temporal_init: ``'central'``, ``'last'`` (causal) or ``'uniform'``.
        temporal_layers: Patterns on layer names; None takes every HO-CP layer and every grouped ``k x k`` one, and
            the dense ``k x k`` ones, too, where ``factorize`` is empty.
        factorize: Patterns on layer names; None takes every dense ``k x k`` layer with more than 4 input channels but
            the first one, an empty list none.
        motion: Let layers with a temporal factor see how fast something changes, by motion components
            (:func:`hocp_mm.layers.add_motion_`): ``dict(rank='x0.125', rectifier='abs', layers=None)``, with patterns
            on layer names. Frames keep the features that they had until these train. None for none.
        out_indices: Stages to return, in the order of the network; the last one by default. Later ones are cut off.
        in_chans: Input channels; timm's weights for 3 are adapted as timm does.
        seed: Of decompositions.
        head_features: Return timm's own head features as well, behind the stages: what its classifier would see
            (final norm, head convolution and pooling, where the network has them).
        return_tensor: Return the only map itself instead of a tuple, as stock MMAction2 heads (``I3DHead``) want it.
        freeze: Patterns on parameter names of the timm network: those never train, and norms whose parameters are all
            frozen keep their statistics.
        norm_eval: Let all batch norms keep their statistics in training, too.
        grad_checkpointing: Keep block inputs only and compute the rest again in the backward pass: less memory, about
            a third more time.
        reparameterize: Fuse the branches of re-parameterisable blocks (RepVGG, MobileOne, FastViT, ...) first.
        conv_options: More keyword arguments of the HO-CP layers, such as ``dict(recompute=True)``.
        timm_options: More keyword arguments for ``timm.create_model``; not those about weights and stages.
        init_cfg: Must be None; weights come through ``pretrained``, ``checkpoint`` or ``hocp_mm.TransductionHook``.

    Attributes:
        net: The timm network, under timm's parameter names. Extractors of features (``torch.fx``) take this, not the
            backbone; ``frame_axis.length`` then says how many frames follow each other in its batch.
        factorized: Names of its HO-CP layers.
        transducted: Names of its layers with a temporal factor.
        load_report: The account of ``pretrained`` or ``checkpoint``; None without.

    Raises:
        UnknownModelError: If timm does not know ``model_name``.
        CheckpointError: If weights cannot be fetched or do not fit.
        NotImplementedError: If a selected layer computes something unknown, or timm cannot checkpoint the network.
        TypeError: If an argument is of another kind.
        ValueError: If both ``pretrained`` and ``checkpoint`` are given, the network has no convolution that could see
            time, or ranks, patterns, stages, channels, options or the temporal kernel do not fit.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        checkpoint: str | PathLike[str] | None = None,
        rank: RankRule = "x1",
        temporal_kernel: int = 3,
        temporal_init: Init = "central",
        temporal_layers: Patterns | None = None,
        factorize: Patterns | None = None,
        motion: Motion | None = None,
        out_indices: Sequence[int] = (-1,),
        in_chans: int = 3,
        seed: int = 0,
        head_features: bool = False,
        return_tensor: bool = False,
        freeze: Patterns = (),
        norm_eval: bool = False,
        grad_checkpointing: bool = False,
        reparameterize: bool = False,
        conv_options: Options | None = None,
        timm_options: Mapping[str, Any] | None = None,
        init_cfg: None = None,
    ) -> None:
        check_arguments(model_name, checkpoint, temporal_kernel, out_indices, in_chans)
        if init_cfg is not None:
            raise ValueError(f"TimmHOCPBackbone: init_cfg must be None, got {init_cfg!r} (use checkpoint=...).")
        if pretrained and checkpoint is not None:
            raise ValueError(f"TimmHOCPBackbone: give pretrained or checkpoint, got both ({checkpoint!r}).")
        super().__init__()
        self.model_name, self.in_chans, self.seed = model_name, in_chans, seed
        self.reparameterize, self.timm_options = reparameterize, dict(timm_options or {})
        self.norm_eval, self.grad_checkpointing = norm_eval, grad_checkpointing
        net, classifier = create_network(model_name, in_chans, timm_options)
        self.net: nn.Module = net
        if reparameterize:
            reparameterize_(self.net)
        self.stages, after_them = choose_stages(self.net, model_name, out_indices, head_features)
        self._classifier, self._cut_off = classifier, after_them
        self.return_tensor = return_tensor
        if return_tensor and len(self.stages.channels) != 1:
            raise ValueError(
                f"TimmHOCPBackbone: return_tensor needs one map, got {len(self.stages.channels)} "
                f"(out_indices={tuple(out_indices)}, head_features={head_features})."
            )
        cache = DecompositionCache()
        patterns, dense = layers_to_factorize(self.net, model_name, rank, factorize)
        weights = None
        if pretrained or checkpoint is not None:
            weights = self._read("timm" if checkpoint is None else str(checkpoint))
            require_finite(weights.state, weights.title)
            rank = resolve_ranks(self.net, rank, patterns, weights.state, cache, seed)
        if temporal_layers is None and not list(patterns) and dense:
            temporal_layers = exactly([n for n, m in self.net.named_modules() if sees_time(m) or n in dense])
        self.frame_axis = FrameAxis()
        self.factorized, self.transducted = convert_(
            self.net, rank, patterns, temporal_kernel, temporal_init, temporal_layers, self.frame_axis,
            conv_options or {}, motion,
        )  # fmt: skip
        forbid_fusing_(self.net)
        make_trainable_(self.net)
        for parameter in self.net.parameters():
            if parameter.ndim == 4:  # not net.to(memory_format=...), which refuses the odd Conv3d (LambdaNet)
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        if grad_checkpointing:
            enable_checkpointing_(self.net, model_name)
        self._freeze(freeze)
        self.load_report: LoadReport | None = None
        if weights is not None:
            self.load_report = self._load(weights, cache=cache)

    def _freeze(self, patterns: Patterns) -> None:
        """Freeze the parameters that never train."""
        frozen = name_matcher(patterns)
        names = [name for name, _ in self.net.named_parameters() if frozen(name)]
        if list(patterns) and not names:
            raise ValueError(f"TimmHOCPBackbone: freeze must match a parameter of the network, got {patterns!r}.")
        for name in names:
            self.net.get_parameter(name).requires_grad_(False)
        self._frozen = set(names)

    @property
    def out_channels(self) -> list[int]:
        """Channels of each returned map."""
        return list(self.stages.channels)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; norms that keep their statistics stay in evaluation mode."""
        super().train(mode)
        for name, module in self.net.named_modules():
            if mode and isinstance(module, _BatchNorm):
                own = {f"{name}.{leaf}" for leaf, _ in module.named_parameters()}
                if self.norm_eval or (own and own <= self._frozen):
                    module.eval()
        return self

    def forward(self, clip: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Compute features of every frame.

        Args:
            clip: Normalised frames ``[N, C, T, H, W]``; T may change between calls.

        Returns:
            One tensor ``[N, C', T, H', W']`` per stage in ``out_indices``, last stage last; then the head features
            ``[N, C', T, 1, 1]`` if they are wanted. Not a tuple but the tensor itself with ``return_tensor``.

        Raises:
            ValueError: If ``clip`` has another number of dimensions or channels, or no frame.
        """
        if clip.ndim != 5 or clip.shape[1] != self.in_chans or clip.shape[2] == 0:
            raise ValueError(
                f"TimmHOCPBackbone: clip must be [N, {self.in_chans}, T, H, W] with T >= 1, "
                f"got shape {tuple(clip.shape)}."
            )
        frames = clip.shape[2]
        self.frame_axis.clips, self.frame_axis.length = clip.shape[0], frames
        features = self.stages.read(self.net, fold_frames(clip))
        if self.grad_checkpointing and torch.is_grad_enabled():
            features = remember_frames(self.frame_axis, features)
        maps = tuple(unfold_frames(feature, frames) for feature in features)
        return maps[0] if self.return_tensor else maps

    def init_weights(self) -> None:
        """Do nothing: the weights were set when the backbone was built.

        mmengine would call timm's ``init_weights`` here and lose loaded weights.
        """

    def load_image_weights(
        self,
        source: str,
        *,
        seed: int | None = None,
        allow_missing: bool = False,
        progress: Callable[[str], None] | None = None,
        cache: DecompositionCache | None = None,
        keep: Patterns = (),
        pictures: Sequence[Tensor] = (),
        judged: Sequence[Tensor] = (),
        budget: float | None = None,
        distill: int = 0,
    ) -> LoadReport:
        """Load an image network's weights into this backbone (see :mod:`hocp_mm.checkpoints`).

        Args:
            source: ``'timm'`` for timm's own pretrained weights, a timm model such as ``'resnet18.a1_in1k'`` for that
                one's, else a file, state dict or whole module, with the names of timm, dense or CP, or of
                EfficientNet-PyTorch or torchvision; a backbone inside a recogniser's checkpoint is found, too.
            seed: Of the decompositions; None takes the constructor's.
            allow_missing: Load what fits, if there is anything, instead of refusing.
            progress: Called with a line of text for each decomposed layer.
            cache: Where decompositions are kept; None fits anew.
            keep: Patterns on names of tensors that keep their values on purpose.
            pictures: Batches of images ``[B, in_chans, H, W]``, normalised as in training: dense weights are put into
                CP form on these (:mod:`hocp_mm.models.backbones.calibration`), not by their kernels alone; a note in
                the account says where that was not possible.
            judged: Batches of others, to judge the result by; none keeps every fourth of ``pictures`` for that.
            budget: Parameters of the CP layers together, as a part of those of the dense ones; ranks then follow the
                weights and the pictures. None keeps the ranks of this backbone.
            distill: With pictures: steps in which all CP layers are adjusted to each other.

        Returns:
            The account of the transfer.

        Raises:
            CheckpointError: If the weights cannot be read or do not fit, or there are too few pictures.
            ValueError: If there is a budget without pictures.
        """
        if budget is not None and not pictures:
            raise ValueError(f"TimmHOCPBackbone: a budget needs pictures to spend it by, got {budget} and none.")
        weights = self._read(source)
        own = {"seed": seed, "progress": progress}
        options = {"allow_missing": allow_missing, "cache": cache, "keep": keep, **own}
        with torch.random.fork_rng(devices=[]):  # networks are drawn before they are filled
            if pictures and self.factorized:
                require_finite(weights.state, weights.title)
                if (dense := self._dense(weights, pictures[0].device)) is not None:
                    plan = {"pictures": pictures, "judged": judged, "budget": budget, "distill": distill}
                    return self._load_calibrated(weights, dense, plan, options)
            if pictures:
                note = (
                    "not calibrated: the weights are not those of a whole dense network, or no layer is put in CP form"
                )
                weights = weights._replace(notes=[*weights.notes, note])
        return self._load(weights, **options)

    def _dense(self, weights: ImageWeights, device: torch.device) -> nn.Module | None:
        """Return the image network with these weights, or None if they are not those of a dense one."""
        net, _ = create_network(self.model_name, self.in_chans, self.timm_options)
        if self.reparameterize:
            reparameterize_(net)
        choose_stages(net, self.model_name, self.stages.indices, self.stages.head)
        return net.to(device).eval() if fill_dense_(net, weights.state) else None

    def _load_calibrated(
        self, weights: ImageWeights, dense: nn.Module, plan: dict[str, Any], options: dict[str, Any]
    ) -> LoadReport:
        layers: dict[str, Any] = {name: self.net.get_submodule(name) for name in self.factorized}
        ranks = {name: layer.rank for name, layer in layers.items()}
        seed = self.seed if options["seed"] is None else options["seed"]
        shared = {key: options[key] for key in ("progress", "cache")}
        try:
            found = calibrate(dense, self.stages, list(layers), ranks, seed=seed, **plan, **shared)
        except (ValueError, CheckpointError) as error:
            raise CheckpointError(f"{weights.title}: {error}") from error
        # A CP layer takes nothing of what its dense twin had.
        others = {key: value for key, value in weights.state.items() if key.rpartition(".")[0] not in layers}
        report = self._load(weights._replace(state={**others, **found.state}), **options)
        report.reconstructed, report.stages, report.judged = dict(found.layers), list(found.stages), found.judged
        return report

    def _read(self, source: str) -> ImageWeights:
        return read_image_weights(source, self.model_name, self.in_chans, self.timm_options, fused=self.reparameterize)

    def _load(self, weights: ImageWeights, *, seed: int | None = None, **options: Any) -> LoadReport:
        # An image network that was pruned keeps its ranks.
        for name, (old, new) in follow_ranks_(self.net, weights.state, weights.title).items():
            _logger.info("TimmHOCPBackbone: rank of '%s' is %d as in %s, not %d.", name, new, weights.title, old)
        return load_image_weights_(
            self.net,
            Weights(weights.state, weights.notes),
            source=weights.title,
            classifier=[*weights.left_out, *self._classifier],
            cut_off=self._cut_off,
            seed=self.seed if seed is None else seed,
            **options,
        )
