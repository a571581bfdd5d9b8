"""Put the weights of an image network into its (video) HO-CP twin.

Dense kernels are decomposed or inflated, CP factors and everything else are copied by name
(:mod:`hocp_mm.checkpoints.transfer_plan` says which). Modules that are the identity until trained stay as they are.
The result equals the HO-CP image network on every frame, a dense one up to the error of the fit. Nothing is written
before everything is known to fit.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from typing import cast, get_args

import torch
from torch import Tensor, nn

from hocp_mm.checkpoints.decomposition_cache import DecompositionCache
from hocp_mm.checkpoints.report import LoadReport
from hocp_mm.checkpoints.transfer_plan import TemporalInit, TransferPlan, plan_transfer
from hocp_mm.errors import CheckpointError
from hocp_mm.functional.cp import CPKernel
from hocp_mm.functional.decompose import Decomposition, decompose
from hocp_mm.functional.transduct import temporal_taps
from hocp_mm.layers.options import FitReport
from hocp_mm.layers.rank_matching import match_ranks_
from hocp_mm.layers.selection import CP, HOCPConv, Patterns

MOST_NEAREST, MOST_NAMES, LONGEST_NAME = 3, 64, 200


def load_image_weights_(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    classifier: Collection[str] = (),
    cut_off: Collection[str] = (),
    seed: int = 0,
    allow_missing: bool = False,
    progress: Callable[[str], None] | None = None,
    cache: DecompositionCache | None = None,
    keep: Patterns = (),
    temporal_init: TemporalInit = "central",
) -> LoadReport:
    """Load a 2-D state dict, dense or CP, into a model of images or clips.

    Receivers are ``HOCPConv2d``, frame-folded layers, ``HOCPConv3d`` and ``nn.Conv3d``, whatever their number of taps.
    With ``temporal_init='central'`` every 3-D layer looks at the present frame alone at first: the network is exactly
    frame-wise, up to its own temporal strides and pooling, and a clip may begin and end anywhere. ``'uniform'`` is
    what MMAction2 does to dense kernels: each of k taps is ``1 / k`` of the 2-D kernel. That averages k frames, and at
    the first and last frames, where taps fall on zero padding, the response is too small by their share (a third for
    three taps), more so with every layer.

    A 3-D kernel for an ``HOCPConv3d`` is decomposed with its temporal mode.

    Args:
        model: The receiver; changed.
        state: Tensors by name, in the names of ``model`` (dense kernels as ``<layer>.weight``). If it has ``notes``,
            as what :func:`hocp_mm.checkpoints.unwrap_state_dict` returns, they go into the report.
        source: What to call the weights in the report and in errors.
        classifier: Name prefixes (``fc``) of the source's own head, whose tensors the model does not want.
        cut_off: Name prefixes of layers that the model has no more, such as those behind its last stage.
        seed: Of the decompositions.
        allow_missing: Load what fits, if there is anything, instead of refusing.
        progress: Called with a line of text for each decomposed layer.
        cache: Keeps decompositions on disk; None computes them all.
        keep: Patterns on names of tensors of the model that stay as they are, whatever the source has for them.
        temporal_init: Of inflated kernels and of the temporal factors of ``HOCPConv3d``; frame-folded layers keep
            the factor that they were made with.

    Returns:
        The account of the transfer.

    Raises:
        CheckpointError: If a tensor holds NaN or inf, a pattern of ``keep`` matches nothing, or the transfer is
            incomplete and ``allow_missing`` is False, or nothing fits; the model is then unchanged.
        ValueError: If ``temporal_init`` is unknown.
    """
    if temporal_init not in get_args(TemporalInit):
        raise ValueError(
            f"load_image_weights_: temporal_init must be one of {get_args(TemporalInit)}, got {temporal_init!r}."
        )
    require_finite(state, source)
    report = LoadReport(source, notes=list(getattr(state, "notes", ())))
    plan = plan_transfer(model, state, report, keep, temporal_init)
    for key in state:
        if key in plan.used:
            continue
        for prefixes, names in ((cut_off, report.cut_off), (classifier, report.classifier)):
            if any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes):
                names.append(key)
                break
        else:
            report.unexpected.append(key)
    report.nearest = _nearest(model, state, report)
    if not (allow_missing and plan.loads):
        report.raise_if_incomplete(loads=plan.loads)
    found = _decompose_all(model, plan, report, seed, progress, cache)
    _write(model, state, plan, found, temporal_init)
    report.copied = plan.copies
    return report


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that nothing can be computed with.

    Args:
        state: Tensors by name.
        source: What to call them in the error.

    Raises:
        CheckpointError: If a tensor holds NaN or inf.
    """
    broken = [name for name, tensor in state.items() if isinstance(tensor, Tensor) and not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"checkpoint: weights must be finite, got NaN or inf in {', '.join(broken[:5])} ({source})."
        )


def follow_ranks_(model: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, tuple[int, int]]:
    """Give CP layers the ranks that a source has, as :func:`hocp_mm.layers.match_ranks_` does.

    Args:
        model: The receiver; changed.
        state: Tensors by name, in the names of ``model``.
        source: What to call the weights in errors.

    Returns:
        Old and new rank of each layer that changed.

    Raises:
        CheckpointError: If the ranks in the source cannot be those of a layer.
    """
    try:
        return match_ranks_(model, state)
    except (ValueError, NotImplementedError) as error:
        raise CheckpointError(f"checkpoint: ranks must fit the model, got {source} ({error})") from error


def _nearest(model: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> dict[str, list[str]]:
    """Find missing tensors of the shapes of unexpected ones; a layer's dense kernel stands for its factors."""
    own, missing = model.state_dict(), dict[torch.Size, list[str]]()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, CP)}
    for name in report.missing:
        layer = re.split(r"\.(?=weights$|factors\.)", name)[0]
        if layer == name or layer not in layers:
            if name in own:  # what a kernel is made of besides is none of the model's own tensors
                missing.setdefault(own[name].shape, []).append(name)
        elif name.endswith(".weights"):
            shape = layers[layer].kernel().shape
            image = (*shape[:2], *shape[3:]) if "t" in layers[layer].factors else shape
            missing.setdefault(torch.Size(image), []).append(f"{layer}.{layers[layer].source_names[0]}")
    return {
        name: difflib.get_close_matches(name, candidates, n=MOST_NEAREST, cutoff=0.0)
        for name in report.unexpected[:MOST_NAMES]
        if len(name) <= LONGEST_NAME
        if (candidates := missing.get(state[name].shape, [])[:MOST_NAMES])
    }


def _decompose_all(
    model: nn.Module,
    plan: TransferPlan,
    report: LoadReport,
    seed: int,
    progress: Callable[[str], None] | None,
    cache: DecompositionCache | None,
) -> dict[str, Decomposition]:
    """Fit the kernels of all CP layers that need it; nothing is written yet."""
    fit = decompose if cache is None else cache.decompose
    found: dict[str, Decomposition] = {}
    for number, (name, dense) in enumerate(plan.fits.items(), 1):
        layer = cast("HOCPConv", model.get_submodule(name))
        try:
            found[name] = fit(dense.to(layer.weights.dtype), layer.rank, groups=layer.groups, seed=seed)
        except ValueError as error:  # numbers that are too large for the layer's dtype
            raise CheckpointError(f"{report.source}: the kernel of {name} does not fit ({error})") from error
        report.decomposed[name] = error = found[name].relative_error
        if progress is not None:
            progress(f"decomposed {number}/{len(plan.fits)} {name}: relative error {error:.4f}")
    return found


@torch.no_grad()
def _write(
    model: nn.Module,
    state: Mapping[str, Tensor],
    plan: TransferPlan,
    found: Mapping[str, Decomposition],
    temporal_init: TemporalInit,
) -> None:
    """Carry out a plan."""
    targets = model.state_dict()  # shares storage with the model
    for key in plan.copies:
        targets[key].copy_(state[key])
    for name, fit in found.items():
        layer = cast("HOCPConv", model.get_submodule(name))
        # What was not fitted stays: a frame-folded layer's temporal factor and the fit are the transducted kernel.
        factors = {**layer.kernel().factors, **fit.kernel.factors}
        layer.set_kernel(CPKernel(fit.kernel.weights, factors, layer.groups))
        layer.fit_report = FitReport(fit.relative_error, fit.degeneracy)
    for key in plan.temporal:
        size, rank = targets[key].shape
        targets[key].copy_(temporal_taps(size, rank, temporal_init))
    for key, kernel in plan.inflations.items():
        taps = temporal_taps(targets[key].shape[2], 1, temporal_init, dtype=kernel.dtype, device=kernel.device)
        targets[key].copy_(kernel.unsqueeze(2) * taps.reshape(-1, 1, 1))
