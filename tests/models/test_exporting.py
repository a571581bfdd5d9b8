"""Networks for exporters: folded, and of one step, they say what the network says of clips."""

from typing import Any

import pytest
import torch

from hocp_mm.models.exporting import ClipNetwork, StepNetwork
from tests.laws import assert_close
from tests.material.tiny_configs import tiny_config, tiny_network

SIZE = (32, 32)


def network(init: str = "last", neck: Any = None, flip: bool = False, expressions: int | None = None) -> Any:
    cfg = tiny_config()
    cfg.model.backbone.update(temporal_init=init, motion={"rank": 4, "rectifier": "relu"})
    cfg.model.neck, cfg.model.test_cfg = neck, {"flip": flip}
    cfg.model.head.num_expressions = expressions
    found = tiny_network(cfg)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if ".motion." in name or "neck" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return found


NECK = {"type": "hocp_mm.HOCPTemporalNeck", "causal": True, "dilations": (1, 2)}


def clips(frames: int, count: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, frames, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )


def said(found: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Return what an evaluation hears, ``[N, T, 2 + K]``."""
    with torch.no_grad():
        samples = found(found.data_preprocessor({"inputs": list(inputs)})["inputs"], mode="predict")
    return torch.stack(
        [torch.cat([s.pred_affect, s.pred_scores] if "pred_scores" in s else [s.pred_affect], -1) for s in samples]
    )


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize(
    "options", [{}, {"init": "central"}, {"neck": NECK}, {"flip": True}, {"expressions": 8}], ids=str
)
def test_a_copy_for_exporters_says_the_same_of_clips(options: dict, frames: int):
    found, inputs = network(**options), clips(frames)
    expected = said(found, inputs)
    copy = ClipNetwork(found, SIZE)
    assert len(copy.folded) > 8
    with torch.no_grad():
        assert_close(torch.cat(copy(inputs), -1), expected, 1e-5, "pictures")
        plain = ClipNetwork(found, SIZE, preprocess=False)
        normalised = found.data_preprocessor({"inputs": list(inputs)})["inputs"]
        assert_close(torch.cat(plain(normalised), -1), expected, 1e-5, "normalised pictures")
    assert_close(said(found, inputs), expected, 0, "the network itself")


@pytest.mark.parametrize("options", [{}, {"neck": NECK}, {"expressions": 8}], ids=str)
def test_one_step_after_the_other_says_the_same(options: dict):
    """Three streams: one from the start, one that begins later in what another left behind, one that begins twice."""
    found, inputs = network(**options), clips(12, 3)
    step = StepNetwork(found, SIZE)
    begins = {0: [0], 1: [4], 2: [0, 7]}
    memory, heard = [torch.randn_like(kept) for kept in step.nothing(3)], []
    count = 2 if options.get("expressions") else 1
    with torch.no_grad():
        for number in range(12):
            fresh = torch.tensor([number in begins[stream] for stream in range(3)])
            out = step(inputs[:, :, number], fresh, *memory)
            heard.append(torch.cat(out[:count], -1))
            memory = out[count:]
            assert [tuple(kept.shape[1:]) for kept in memory] == list(step.memory.values())
    heard = torch.stack(heard, 1)
    for stream, starts in begins.items():
        for start, end in zip(starts, [*starts[1:], 12], strict=True):
            expected = said(found, inputs[stream : stream + 1, :, start:end])
            assert_close(heard[stream : stream + 1, start:end], expected, 1e-5, f"stream {stream} from {start}")


def test_what_cannot_be_one_step_is_refused():
    with pytest.raises(NotImplementedError, match=r"needs a causal network .* looks \d+ frames ahead"):
        StepNetwork(network(init="central"), SIZE)
    with pytest.raises(NotImplementedError, match="mirror image"):
        StepNetwork(network(flip=True), SIZE)
