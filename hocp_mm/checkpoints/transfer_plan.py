"""Decide what becomes of every tensor of a model and of a source, before anything is written.

    source                      receiver                      becomes
    dense 2-D kernel            HOCPConv2d, frame-folded      a fit of lambda and out, in, h, w
    dense 2-D kernel            HOCPConv3d                    the same, and factors.t is set
    dense 3-D kernel            HOCPConv3d                    a fit of lambda and all factors
    dense 2-D kernel            nn.Conv3d                     an inflated kernel
    CP factors of an image      HOCPConv3d                    copies, and factors.t is set
    anything else               the tensor of the same name   a copy

Frame-folded layers were made with the temporal factor that they should start with, and keep it. A fresh
``HOCPConv3d`` drew its own at random, so there it is written.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from hocp_mm.checkpoints.report import LoadReport
from hocp_mm.errors import CheckpointError
from hocp_mm.layers.cp_conv import HOCPConv3d
from hocp_mm.layers.selection import CP, HOCPConv, Patterns

TEMPORAL_FACTOR = "factors.t"
# 'last' is left out: with the symmetric padding of nn.Conv3d its delta would look at a later frame, not at this one.
TemporalInit = Literal["central", "uniform"]


@dataclass
class TransferPlan:
    """What to write where; names are those of the model, or of its layers.

    Attributes:
        copies: Tensors to take over from the source under the same name.
        fits: CP layers, and the dense kernel to decompose for each.
        inflations: Weights of dense 3-D layers, and the 2-D kernel for each.
        temporal: Temporal factors to set.
        used: Names of the source that have a place in the model.
    """

    copies: list[str] = field(default_factory=list)
    fits: dict[str, Tensor] = field(default_factory=dict)
    inflations: dict[str, Tensor] = field(default_factory=dict)
    temporal: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    @property
    def loads(self) -> bool:
        """Whether a weight is taken over; a batch norm's counter, a number without a shape, fits any network."""
        copied = any(not name.endswith("num_batches_tracked") for name in self.copies)
        return bool(self.fits or self.inflations or copied)


def plan_transfer(
    model: nn.Module, state: Mapping[str, Tensor], report: LoadReport, keep: Patterns, temporal_init: TemporalInit
) -> TransferPlan:
    """Sort all tensors; changes neither model nor state.

    Args:
        model: The receiver.
        state: The source, in the names of the model.
        report: Filled with what is kept, inflated, transducted, added, missing and mismatched.
        keep: Patterns on names of tensors of the model that stay as they are.
        temporal_init: Of temporal factors and inflated kernels that are to be written.

    Returns:
        The plan.

    Raises:
        CheckpointError: If a pattern of ``keep`` matches nothing; a typing error would overwrite what was to stay.
    """
    report.kept = kept = _kept(model, keep, report.source)
    planner = _Planner(state, report, temporal_init, settled=set(kept))
    planner.plan.used.update(name for name in kept if name in state)
    for name, module in _named_modules(model):
        prefix = f"{name}." if name else ""
        if isinstance(module, CP):
            planner.plan_cp_layer(prefix, module)
        elif isinstance(module, nn.Conv3d):
            planner.plan_inflation(prefix, module)
    planner.plan_copies(model)
    return planner.plan


def _kept(model: nn.Module, keep: Patterns, source: str) -> list[str]:
    patterns = [keep] if isinstance(keep, str) else list(keep)
    names = list(model.state_dict())
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise CheckpointError(f"checkpoint: keep must match a tensor of the model, got {pattern!r} ({source}).")
    return [name for name in names if any(re.search(pattern, name) for pattern in patterns)]


@dataclass
class _Planner:
    """A plan in the making; ``settled`` are the tensors of the model whose fate is known."""

    state: Mapping[str, Tensor]
    report: LoadReport
    temporal_init: TemporalInit
    settled: set[str]
    plan: TransferPlan = field(default_factory=TransferPlan)

    def plan_cp_layer(self, prefix: str, layer: HOCPConv) -> None:
        """Plan the kernel of a CP layer, unless the source has just the factors that the layer has."""
        modes = [mode for mode in layer.kernel().factors if mode != "t"]
        kernel_names = [f"{prefix}weights", *(f"{prefix}factors.{mode}" for mode in modes)]
        kept = [name for name in kernel_names if name in self.settled]
        sources = [f"{prefix}{leaf}" for leaf in layer.source_names]
        if sources[0] not in self.state:
            if isinstance(layer, HOCPConv3d) and not kept and all(name in self.state for name in kernel_names):
                self._plan_temporal(prefix, layer)
            return
        self.plan.used.update(name for name in sources if name in self.state)
        if len(kept) == len(kernel_names):
            return
        self.settled.update(kernel_names)
        dense = None
        if kept:
            self.report.mismatched.append(f"{sources[0]}: keep must name all factors of a kernel or none")
        else:
            dense = self._dense_kernel(layer, sources)
        if dense is None or dense.ndim == 5:
            self.settled.add(f"{prefix}{TEMPORAL_FACTOR}")
        if dense is not None:
            self.plan.fits[prefix.removesuffix(".")] = dense
            self._plan_temporal(prefix, layer)

    def _dense_kernel(self, layer: HOCPConv, sources: list[str]) -> Tensor | None:
        """Return the kernel that a CP layer is to be fitted to, or None after a line in the report."""
        absent = [name for name in sources if name not in self.state]
        self.report.missing += absent
        if absent:
            return None
        dense, shape = self.state[sources[0]], layer.kernel().shape
        image = (*shape[:2], *shape[3:]) if "t" in layer.factors else shape
        trouble = [
            f"{name}: {tuple(self.state[name].shape)} instead of {layer.out_channels} values"
            for name in sources[1:]
            if self.state[name].numel() != layer.out_channels
        ]
        if tuple(dense.shape) not in ((image, shape) if isinstance(layer, HOCPConv3d) else (image,)):
            trouble.append(f"{sources[0]}: {tuple(dense.shape)} instead of {image}")
        elif layer.inner is not None:
            trouble.append(f"{sources[0]}: Psi must be off when weights come from a dense network")
        self.report.mismatched += trouble
        if trouble or layer.source_kernel is None:
            return None if trouble else dense
        return layer.source_kernel({leaf: self.state[n] for leaf, n in zip(layer.source_names, sources, strict=True)})

    def _plan_temporal(self, prefix: str, layer: HOCPConv) -> None:
        """Plan the temporal factor of a layer whose other factors come from an image network."""
        name = f"{prefix}{TEMPORAL_FACTOR}"
        if "t" not in layer.factors or name in self.settled or name in self.state:
            return
        self.settled.add(name)
        if not isinstance(layer, HOCPConv3d):
            self.report.transducted.append(name)
        elif self._fits_time(name, layer.kernel_size[0]):
            self.report.transducted.append(name)
            self.plan.temporal.append(name)

    def plan_inflation(self, prefix: str, conv: nn.Conv3d) -> None:
        """Plan the kernel of a dense 3-D layer for which the source has a 2-D one."""
        name = f"{prefix}weight"
        kernel, shape = self.state.get(name), tuple(conv.weight.shape)
        if kernel is None or kernel.ndim != 4 or name in self.settled:
            return
        self.settled.add(name)
        self.plan.used.add(name)
        image = (*shape[:2], *shape[3:])
        if tuple(kernel.shape) != image:
            self.report.mismatched.append(f"{name}: {tuple(kernel.shape)} instead of {image}")
        elif self._fits_time(name, shape[2]):
            self.plan.inflations[name] = kernel
            self.report.inflated.append(prefix.removesuffix("."))

    def _fits_time(self, name: str, taps: int) -> bool:
        if self.temporal_init == "central" and taps % 2 == 0:
            self.report.mismatched.append(f"{name}: a central delta needs an odd number of taps, got {taps}")
            return False
        return True

    def plan_copies(self, model: nn.Module) -> None:
        """Sort the tensors that are left into copied, added, temporal, missing and mismatched."""
        identities = _unknown_identity_modules(model, self.state)
        drawn = {f"{n}.{TEMPORAL_FACTOR}" for n, module in _named_modules(model) if isinstance(module, HOCPConv3d)}
        for key, tensor in model.state_dict().items():
            if key in self.settled:
                continue
            if key in self.state:
                self.plan.used.add(key)
                if self.state[key].shape == tensor.shape:
                    self.plan.copies.append(key)
                else:
                    shapes = f"{tuple(self.state[key].shape)} instead of {tuple(tensor.shape)}"
                    self.report.mismatched.append(f"{key}: {shapes}")
            elif key.startswith(identities):
                self.report.added.append(key)
            elif key.endswith(TEMPORAL_FACTOR) and key not in drawn:
                self.report.transducted.append(key)
            elif not key.endswith("num_batches_tracked"):  # torch, too, counts from zero when an old file lacks it
                self.report.missing.append(key)


def _unknown_identity_modules(model: nn.Module, state: Collection[str]) -> tuple[str, ...]:
    """Prefixes of modules that say they are the identity until trained, and of which the source has nothing."""
    prefixes = [f"{name}." for name, module in _named_modules(model) if getattr(module, "identity_at_start", False)]
    return tuple(prefix for prefix in prefixes if not any(key.startswith(prefix) for key in state))


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules under all their names: a state dict has a part that is used in two places (CoaT's) twice."""
    return model.named_modules(remove_duplicate=False)
