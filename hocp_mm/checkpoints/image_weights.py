"""Put the weights of an image network into its (video) HO-CP twin.

Dense kernels are decomposed, CP factors and everything else are copied by name. Temporal factors that the source does
not know keep their initial values, and so do modules that are the identity until trained; the result then equals the
HO-CP image network on every frame (a dense one up to the error of the fit). Nothing is written before everything is
known to fit.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from hocp_mm.checkpoints.report import LoadReport
from hocp_mm.errors import CheckpointError
from hocp_mm.functional.cp import CPKernel
from hocp_mm.functional.decompose import decompose
from hocp_mm.layers.cp_conv import HOCPConv2d

TEMPORAL_FACTOR = "factors.t"


def load_image_weights_(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    classifier: Collection[str] = (),
    seed: int = 0,
    allow_missing: bool = False,
    progress: Callable[[str], None] | None = None,
) -> LoadReport:
    """Load a 2-D state dict, dense or CP, into a model with HO-CP layers.

    Args:
        model: The receiver; changed.
        state: Tensors by name, in the names of ``model`` (dense kernels as ``<layer>.weight``).
        source: What to call the weights in the report and in errors.
        classifier: Name prefixes (``fc``) whose tensors the model does not want.
        seed: Of the decompositions.
        allow_missing: Load what fits instead of refusing.
        progress: Called with a line of text for each decomposed layer.

    Returns:
        The account of the transfer.

    Raises:
        CheckpointError: If a tensor holds NaN or inf, or the transfer is incomplete and ``allow_missing`` is False;
            the model is then unchanged.
    """
    broken = [name for name, tensor in state.items() if isinstance(tensor, Tensor) and not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"checkpoint: weights must be finite, got NaN or inf in {', '.join(broken[:5])} ({source})."
        )
    report = LoadReport(source)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, HOCPConv2d) and f"{name}.weight" in state}
    for name in layers:
        _check_dense(report, name, layers[name], state[f"{name}.weight"])
    copies = _plan_copies(report, model, state, layers)
    known = set(copies) | {f"{name}.weight" for name in layers} | {entry.split(":")[0] for entry in report.mismatched}
    for key in state:
        if key not in known:
            is_classifier = any(key == prefix or key.startswith(f"{prefix}.") for prefix in classifier)
            (report.classifier if is_classifier else report.unexpected).append(key)
    if not allow_missing:
        report.raise_if_incomplete()
    targets = model.state_dict()  # shares storage with the model
    with torch.no_grad():
        for key in copies:
            targets[key].copy_(state[key])
    report.copied = copies
    fitting = {
        name: layer
        for name, layer in layers.items()
        if not any(m.startswith(f"{name}.weight:") for m in report.mismatched)
    }
    for number, (name, layer) in enumerate(fitting.items(), 1):
        report.decomposed[name] = _decompose_into(layer, state[f"{name}.weight"], seed)
        if progress is not None:
            progress(f"decomposed {number}/{len(fitting)} {name}: relative error {report.decomposed[name]:.4f}")
    return report


def _plan_copies(
    report: LoadReport, model: nn.Module, state: Mapping[str, Tensor], decomposed: Collection[str]
) -> list[str]:
    """Sort the model's own tensors into copied, temporal, missing and mismatched."""
    copies: list[str] = []
    identities = _unknown_identity_modules(model, state)
    for key, tensor in model.state_dict().items():
        layer, _, leaf = key.rpartition(".")
        if layer.removesuffix(".factors") in decomposed and leaf != "bias":
            # Filled from the dense kernel, except a temporal factor, which the image network cannot have.
            if key.endswith(TEMPORAL_FACTOR):
                report.transducted.append(key)
        elif key in state:
            if state[key].shape == tensor.shape:
                copies.append(key)
            else:
                report.mismatched.append(f"{key}: {tuple(state[key].shape)} instead of {tuple(tensor.shape)}")
        elif key.startswith(identities):
            report.added.append(key)
        elif key.endswith(TEMPORAL_FACTOR):
            report.transducted.append(key)
        elif leaf != "num_batches_tracked":  # torch, too, counts from zero when an old file lacks it
            report.missing.append(key)
    return copies


def _unknown_identity_modules(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Prefixes of modules that say they are the identity until trained, and of which the source has nothing."""
    prefixes = [f"{name}." for name, module in model.named_modules() if getattr(module, "identity_at_start", False)]
    return tuple(prefix for prefix in prefixes if not any(key.startswith(prefix) for key in state))


def _check_dense(report: LoadReport, name: str, layer: HOCPConv2d, dense: Tensor) -> None:
    kernel = layer.kernel()
    expected = (*kernel.shape[:2], *layer.kernel_size)
    if tuple(dense.shape) != expected:
        report.mismatched.append(f"{name}.weight: {tuple(dense.shape)} instead of {expected}")
    elif layer.inner is not None:
        report.mismatched.append(f"{name}.weight: Psi must be off when weights come from a dense network")


def _decompose_into(layer: HOCPConv2d, dense: Tensor, seed: int) -> float:
    fit = decompose(dense, layer.rank, groups=layer.groups, seed=seed)
    own = layer.kernel()
    # A temporal factor stays: fitted and temporal factors together are the transducted kernel.
    factors = {**own.factors, **fit.kernel.factors}
    layer.set_kernel(CPKernel(fit.kernel.weights, factors, fit.kernel.groups))
    return fit.relative_error
