"""Put a trained timm network into CP form on pictures that it will see, so that it stays itself.

    pictures -> what each layer sees, what its errors cost -> ranks under one budget -> kernels -> a fit layer by layer

Kernels fitted to weights alone lose half of what a trained network computes; ranks that go where errors cost most, and
layers that make up for the errors of those before them, keep most of it at the same number of parameters.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from hocp_mm.checkpoints import DecompositionCache
from hocp_mm.errors import CheckpointError
from hocp_mm.layers import allocate_ranks, distill_, factorize_, input_moments, output_moments, reconstruct_
from hocp_mm.models.backbones.conversion import exactly
from hocp_mm.models.backbones.timm_network import Stages

_JUDGED = 4  # one batch of so many is kept for the judgement
_MOST_ENTRIES = 10_000  # of a patch: its second moment takes 4 bytes for each pair, several times over
_NET, _STATE, _ERROR = "net.", "state.", "error."


class Calibrated(NamedTuple):
    """A network in CP form, and how near it is to the dense one.

    Attributes:
        state: Its weights, by timm's names of layers.
        layers: Relative error of the output of each CP layer on the pictures that it was fitted to, before any
            distillation. One of very large patches, as a VGG's first linear layer, is not among them: its kernel is
            fitted to the moments alone.
        stages: Relative error of each returned map on pictures that were kept apart, ``|y - y_dense| / |y_dense|``.
        judged: Number of these pictures.
    """

    state: Mapping[str, Tensor]
    layers: Mapping[str, float]
    stages: Sequence[float]
    judged: int


class StagedNetwork(nn.Module):
    """A timm network that returns its stages.

    Args:
        net: The network.
        stages: Which ones.
    """

    def __init__(self, net: nn.Module, stages: Stages) -> None:
        super().__init__()
        self.net, self.stages = net, stages

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """Compute one map ``[B, C, H', W']`` per stage of images ``[B, in, H, W]``."""
        return self.stages.read(self.net, images)


def fill_dense_(net: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Put weights into a dense network, if all of them are there.

    Args:
        net: The network; changed, or not at all.
        state: Weights by its names; others are of no interest.

    Returns:
        False where one is missing or has another shape, as in CP form.
    """
    own = net.state_dict()
    for key, tensor in own.items():
        if state[key].shape != tensor.shape if key in state else not key.endswith("num_batches_tracked"):
            return False
    net.load_state_dict({**own, **{key: state[key] for key in own if key in state}})
    return True


def calibrate(
    net: nn.Module,
    stages: Stages,
    layers: Sequence[str],
    ranks: Mapping[str, int],
    pictures: Sequence[Tensor],
    judged: Sequence[Tensor] = (),
    budget: float | None = None,
    seed: int = 0,
    distill: int = 0,
    progress: Callable[[str], None] | None = None,
    cache: DecompositionCache | None = None,
) -> Calibrated:
    """Compress a dense network on pictures.

    Args:
        net: The dense network with its weights; not changed.
        stages: What it is used for.
        layers: Names of those that get a CP kernel.
        ranks: Their components, where there is no budget.
        pictures: Batches ``[B, in, H, W]``, normalised as the network wants them.
        judged: Others, for the judgement; none keeps every fourth of ``pictures`` for that, which are 2 or more then.
        budget: Parameters of these layers together, as a part of those that they have; ranks then go where errors cost
            most (:func:`hocp_mm.layers.allocate_ranks`).
        seed: Of the fits.
        distill: Steps in which all layers are adjusted to each other (:func:`hocp_mm.layers.distill_`).
        progress: Called with a line of text for each step.
        cache: Where the result is kept; None makes it anew. What is found there is judged again.

    Returns:
        The network in CP form.

    Raises:
        CheckpointError: If there are fewer than 2 batches and none to judge by, pictures hold NaN or inf, or the budget
            is too small for a component per layer.
    """
    if len(pictures) + bool(judged) < 2:
        raise CheckpointError(f"calibrate: batches must be 2 or more, one of them to judge by, got {len(pictures)}.")
    if not all(bool(torch.isfinite(batch).all()) for batch in (*pictures, *judged)):
        raise CheckpointError("calibrate: pictures must be finite, got NaN or inf.")
    kept = set() if judged else set(range(_JUDGED - 1, len(pictures), _JUDGED)) or {len(pictures) - 1}
    judged = judged or [pictures[number] for number in sorted(kept)]
    fitted = [batch for number, batch in enumerate(pictures) if number not in kept]
    dense = StagedNetwork(net, stages).eval()
    plan = _Plan([_NET + name for name in layers], {_NET + n: rank for n, rank in ranks.items()}, budget, seed, distill)

    def compute() -> dict[str, Tensor]:
        return _fit(dense, plan, fitted, progress or (lambda line: None))

    found = compute() if cache is None else _remember(cache, dense, plan, fitted, compute)
    twin = copy.deepcopy(dense)
    fresh = {name: found[f"{_STATE}{name}.weights"].numel() for name in plan.layers}
    factorize_(twin, fresh, layers=exactly(plan.layers), fit=False)
    changed = {key.removeprefix(_STATE): tensor for key, tensor in found.items() if key.startswith(_STATE)}
    twin.load_state_dict({**twin.state_dict(), **changed})
    errors = {key.removeprefix(_ERROR + _NET): float(error) for key, error in found.items() if key.startswith(_ERROR)}
    return Calibrated(
        {key.removeprefix(_NET): tensor for key, tensor in twin.state_dict().items()},
        errors,
        stage_errors(twin, dense, judged),
        sum(map(len, judged)),
    )


class _Plan(NamedTuple):
    """What is asked for, with the names of layers in the `StagedNetwork`."""

    layers: list[str]
    ranks: Mapping[str, int]
    budget: float | None
    seed: int
    distill: int


def _fit(
    dense: StagedNetwork, plan: _Plan, pictures: Sequence[Tensor], tell: Callable[[str], None]
) -> dict[str, Tensor]:
    """Put layers into CP form.

    Returns:
        The tensors of the network that are not those of the dense one, and the errors of layers, by name.

    Raises:
        CheckpointError: If the budget is too small.
    """
    where, count = exactly(plan.layers), sum(map(len, pictures))
    tell(f"measuring {len(plan.layers)} layers on {count} pictures")
    inputs, outputs = input_moments(dense, pictures, where), output_moments(dense, pictures, where, seed=plan.seed)
    moments: dict[str, Any] = {"input_moments": inputs, "output_moments": outputs}
    ranks = plan.ranks
    if plan.budget is not None:
        tell(f"choosing ranks for {100 * plan.budget:g} % of the parameters")
        try:
            ranks = allocate_ranks(dense, float(plan.budget), layers=where, seed=plan.seed, **moments)
        except ValueError as error:
            raise CheckpointError(f"calibrate: {error}") from error
    tell("decomposing")
    twin = copy.deepcopy(dense)
    factorize_(twin, ranks, layers=where, seed=plan.seed, **moments)
    small = [name for name in plan.layers if dense.get_parameter(f"{name}.weight")[0].numel() <= _MOST_ENTRIES]
    tell(f"fitting {len(small)} layers to the outputs of the dense network")
    errors = reconstruct_(twin, dense, pictures, layers=exactly(small), output_moments=outputs) if small else {}
    if plan.distill:
        tell(f"adjusting all layers to each other in {plan.distill} steps")
        distill_(twin, dense, pictures, steps=plan.distill, layers=where)
    old = dense.state_dict()
    new = {key: t for key, t in twin.state_dict().items() if key not in old or not torch.equal(t, old[key])}
    return {
        **{_STATE + key: tensor for key, tensor in new.items()},
        **{_ERROR + name: torch.tensor(error.after, dtype=torch.float64) for name, error in errors.items()},
    }


def _remember(
    cache: DecompositionCache,
    dense: StagedNetwork,
    plan: _Plan,
    pictures: Sequence[Tensor],
    compute: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:
    state = dense.state_dict()
    all_of_it = {**state, **{f"picture.{number}": batch for number, batch in enumerate(pictures)}}
    context = repr((plan, dense.stages, repr(dense), timm.__version__, torch.get_num_threads()))
    most = 2**20 + 4 * sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    device = next(dense.parameters()).device
    return {key: t.to(device) for key, t in cache.remember(all_of_it, context, compute, most).items()}


@torch.no_grad()
def stage_errors(
    network: Callable[[Tensor], Sequence[Tensor]], dense: Callable[[Tensor], Sequence[Tensor]], shown: Sequence[Tensor]
) -> list[float]:
    """Compare the stages of two networks.

    Args:
        network: From a batch of pictures, or a clip, to one map per stage.
        dense: The one that it should be.
        shown: What they are called with, one after the other.

    Returns:
        ``|y - y_dense| / |y_dense|`` over all that is shown, for each stage; infinite where that is no number.
    """
    sums: Tensor | None = None
    for batch in shown:
        pairs = zip(network(batch), dense(batch), strict=True)
        own = torch.tensor([[float((a - b).double().square().sum()), float(b.double().square().sum())]
                            for a, b in pairs], dtype=torch.float64)  # fmt: skip
        sums = own if sums is None else sums + own
    assert sums is not None
    shares = [0.0 if lost == 0 else math.sqrt(lost / whole) if whole > 0 else math.inf for lost, whole in sums.tolist()]
    return [share if math.isfinite(share) else math.inf for share in shares]
