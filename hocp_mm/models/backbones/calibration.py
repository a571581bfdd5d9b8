"""Put a trained timm network into CP form on pictures that it will see, so that it stays itself.

    pictures -> what each layer sees, what its errors cost -> ranks under one budget -> kernels -> a fit layer by layer

Kernels fitted to weights alone lose half of what a trained network computes; ranks that go where errors cost most, and
layers that make up for the errors of those before them, keep most of it at the same number of parameters.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hocp_mm.errors import CheckpointError
from hocp_mm.layers import allocate_ranks, factorize_, input_moments, output_moments, reconstruct_
from hocp_mm.models.backbones.conversion import exactly
from hocp_mm.models.backbones.timm_network import Stages

_JUDGED = 4  # one batch of so many is kept for the judgement
_MOST_ENTRIES = 10_000  # of a patch: its second moment takes 4 bytes for each pair, several times over
_NET = "net."


class Calibrated(NamedTuple):
    """A network in CP form, and how near it is to the dense one.

    Attributes:
        state: Its weights, by timm's names of layers.
        layers: Relative error of the output of each CP layer on the pictures it was fitted to. One of very large
            patches, as a VGG's first linear layer, is not among them: its kernel is fitted to the moments alone.
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
    budget: float | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Calibrated:
    """Compress a dense network on pictures.

    Args:
        net: The dense network with its weights; not changed.
        stages: What it is used for.
        layers: Names of those that get a CP kernel.
        ranks: Their components, where there is no budget.
        pictures: Batches ``[B, in, H, W]``, normalised as the network wants them, 2 or more; every fourth is kept for
            the judgement.
        budget: Parameters of these layers together, as a part of those that they have; ranks then go where errors cost
            most (:func:`hocp_mm.layers.allocate_ranks`).
        seed: Of the fits.
        progress: Called with a line of text for each step.

    Returns:
        The network in CP form.

    Raises:
        CheckpointError: If there are fewer than 2 batches, pictures hold NaN or inf, or the budget is too small for a
            component per layer.
    """
    if len(pictures) < 2:
        raise CheckpointError(f"calibrate: batches must be 2 or more, one of them to judge by, got {len(pictures)}.")
    if not all(bool(torch.isfinite(batch).all()) for batch in pictures):
        raise CheckpointError("calibrate: pictures must be finite, got NaN or inf.")
    kept = set(range(_JUDGED - 1, len(pictures), _JUDGED)) or {len(pictures) - 1}
    judged = [pictures[number] for number in sorted(kept)]
    fitted = [batch for number, batch in enumerate(pictures) if number not in kept]
    tell = progress or (lambda line: None)
    dense = StagedNetwork(net, stages).eval()
    names = [_NET + name for name in layers]
    where = exactly(names)
    count = sum(map(len, fitted))
    tell(f"measuring {len(names)} layers on {count} pictures")
    inputs, outputs = input_moments(dense, fitted, where), output_moments(dense, fitted, where, seed=seed)
    chosen: Mapping[str, int] = {_NET + name: rank for name, rank in ranks.items()}
    if budget is not None:
        tell(f"choosing ranks for {100 * budget:g} % of the parameters")
        try:
            chosen = allocate_ranks(
                dense, float(budget), layers=where, seed=seed, input_moments=inputs, output_moments=outputs
            )
        except ValueError as error:
            raise CheckpointError(f"calibrate: {error}") from error
    tell("decomposing")
    twin = copy.deepcopy(dense)
    factorize_(twin, chosen, layers=where, seed=seed, input_moments=inputs, output_moments=outputs)
    small = [name for name in names if dense.get_parameter(f"{name}.weight")[0].numel() <= _MOST_ENTRIES]
    tell(f"fitting {len(small)} layers to the outputs of the dense network")
    errors = reconstruct_(twin, dense, fitted, layers=exactly(small), output_moments=outputs) if small else {}
    return Calibrated(
        {key.removeprefix(_NET): tensor for key, tensor in twin.state_dict().items()},
        {name.removeprefix(_NET): error.after for name, error in errors.items()},
        stage_errors(twin, dense, judged),
        sum(map(len, judged)),
    )


@torch.no_grad()
def stage_errors(network: nn.Module, dense: nn.Module, pictures: Sequence[Tensor]) -> list[float]:
    """Compare the stages of two networks.

    Args:
        network: From images to maps.
        dense: The one that it should be.
        pictures: Batches.

    Returns:
        ``|y - y_dense| / |y_dense|`` over all pictures, for each stage; infinite where that is no number.
    """
    sums: Tensor | None = None
    for batch in pictures:
        pairs = zip(network(batch), dense(batch), strict=True)
        own = torch.tensor([[float((a - b).double().square().sum()), float(b.double().square().sum())]
                            for a, b in pairs], dtype=torch.float64)  # fmt: skip
        sums = own if sums is None else sums + own
    assert sums is not None
    shares = [math.sqrt(lost / whole) if whole > 0 else math.inf for lost, whole in sums.tolist()]
    return [share if math.isfinite(share) else math.inf for share in shares]
