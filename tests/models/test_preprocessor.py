"""`AffectDataPreprocessor` moves bytes and normalises on the device, and names the clip that does not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hocp_mm.datasets import SEWADataset
from hocp_mm.functional import fold_frames
from hocp_mm.models.data_preprocessors import AffectDataPreprocessor
from hocp_mm.structures import AffectDataSample
from tests.material.sewa_files import write_sewa


def clip(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_every_channel_is_normalised_with_its_own_statistics() -> None:
    preprocess = AffectDataPreprocessor(mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    clips = [clip(3, 4, 5, 6, seed=0), clip(3, 4, 5, 6, seed=1)]
    batch = preprocess({"inputs": clips})["inputs"]
    assert batch.dtype == torch.float32
    for channel, (mean, std) in enumerate([(10, 1), (20, 2), (30, 4)]):
        expected = (torch.stack(clips)[:, channel].float() - mean) / std
        torch.testing.assert_close(batch[:, channel], expected)


def test_defaults_are_the_statistics_of_timm() -> None:
    data = pytest.importorskip("timm.data")
    preprocess = AffectDataPreprocessor()
    assert (preprocess.mean / 255).flatten().tolist() == pytest.approx(data.IMAGENET_DEFAULT_MEAN)
    assert (preprocess.std / 255).flatten().tolist() == pytest.approx(data.IMAGENET_DEFAULT_STD)


def test_normalisation_is_not_part_of_a_checkpoint() -> None:
    assert not AffectDataPreprocessor().state_dict()


def test_samples_travel_with_their_fractions() -> None:
    sample = AffectDataSample.from_clip([[0.37, -0.82]], video="a", frame_inds=[0], num_frames=1, fps=25)
    (result,) = AffectDataPreprocessor()({"inputs": [clip(3, 1, 2, 2)], "data_samples": [sample]})["data_samples"]
    assert torch.equal(result.gt_affect, torch.tensor([[0.37, -0.82]]))
    assert result.video == "a"


class Watch(TorchDispatchMode):
    """Note what crosses from the CPU to another device, and which large float tensors are made on the CPU."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.large = large
        self.crossed: list[torch.Tensor] = []
        self.floats: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and look at its tensors."""
        out = func(*args, **(kwargs or {}))
        before = [x for x in args if isinstance(x, torch.Tensor)]
        for made in (x for x in (out,) if isinstance(x, torch.Tensor)):
            if made.device.type != "cpu":
                self.crossed += [x for x in before if x.device.type == "cpu"]
            elif made.is_floating_point() and made.numel() >= self.large:
                self.floats.append(str(func))
        return out


@pytest.fixture
def packed(tmp_path: Path) -> dict[str, Any]:
    """A batch of the training pipeline: crop, flip, colours and all, bytes after each step."""
    kinds: list[str] = []

    def look(results: dict[str, Any]) -> dict[str, Any]:
        kinds.append(str(results["imgs"].dtype))
        return results

    changes = [("LoadFaceClip", 40), ("RandomResizedClipCrop", 32), ("ClipFlip", 1.0), ("ClipColorJitter", 0.2)]
    words = ("size", "size", "p", "brightness")
    steps = [{"type": f"hocp_mm.{name}", word: value} for word, (name, value) in zip(words, changes, strict=True)]
    pipeline = [
        {"type": "hocp_mm.SampleClip", "clip_len": 4},
        *(part for step in steps for part in (step, look)),
        {"type": "hocp_mm.PackAffectInputs"},
    ]
    with Watch(large=3 * 4 * 32 * 32) as watch:
        root = write_sewa(tmp_path / "SEWAv02", num_frames=8)
        videos = SEWADataset(str(root), "train", pipeline=pipeline, clips_per_video=2)
        items = [videos[index] for index in range(3)]
    assert kinds == ["uint8"] * 12
    assert watch.floats == []
    return {key: [item[key] for item in items] for key in ("inputs", "data_samples")}


def test_the_clips_of_the_pipeline_cross_to_the_device_once_and_as_bytes(packed: dict[str, Any]) -> None:
    # The meta device has no values, but shapes, types and every copy are those of a GPU.
    preprocess = AffectDataPreprocessor(non_blocking=True).to("meta")
    with Watch(large=packed["inputs"][0].numel()) as watch:
        batch = preprocess({"inputs": packed["inputs"]})["inputs"]
    assert (batch.device.type, batch.dtype, tuple(batch.shape)) == ("meta", torch.float32, (3, 3, 4, 32, 32))
    assert [tensor.dtype for tensor in watch.crossed] == [torch.uint8] * 3
    assert sum(tensor.numel() for tensor in watch.crossed) == batch.numel()
    assert all(tensor.is_contiguous() for tensor in watch.crossed)  # one straight copy each
    assert watch.floats == []


def test_the_network_folds_frames_without_a_copy(packed: dict[str, Any]) -> None:
    batch = AffectDataPreprocessor()({"inputs": packed["inputs"]})["inputs"]
    assert batch.is_contiguous(memory_format=torch.channels_last_3d)
    assert fold_frames(batch).data_ptr() == batch.data_ptr()


def test_the_order_of_a_clip_in_memory_does_not_matter() -> None:
    clips = [clip(3, 4, 5, 6, seed=seed) for seed in range(2)]
    others = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in clips]
    preprocess = AffectDataPreprocessor()
    one, other = (preprocess({"inputs": inputs})["inputs"] for inputs in (clips, others))
    assert torch.equal(one, other)
    assert torch.equal(one, preprocess({"inputs": torch.stack(clips)})["inputs"])
    assert torch.equal(torch.stack(clips), torch.stack(others))  # clips are not written into


REFUSALS: dict[str, tuple[list[torch.Tensor], type[Exception], str]] = {
    "clips of different length": (
        [clip(3, 4, 2, 2), clip(3, 5, 2, 2)],
        ValueError,
        r"\(3, 5, 2, 2\) \(clip 1 of video b\)",
    ),
    "float clips": ([clip(3, 4, 2, 2).float()], TypeError, r"must be uint8, got torch.float32 \(clip 0 of video a\)"),
    "a wrong number of channels": ([clip(1, 4, 2, 2)], ValueError, r"must be \[3, T, H, W\], got \(1, 4, 2, 2\)"),
    "an empty batch": ([], ValueError, "batch is empty"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_clips_are_refused(case: str) -> None:
    clips, kind, text = REFUSALS[case]
    samples: list[Any] = [AffectDataSample(metainfo={"video": name}) for name in "ab"[: len(clips)]]
    with pytest.raises(kind, match=text):
        AffectDataPreprocessor()({"inputs": clips, "data_samples": samples})


def test_statistics_must_fit_each_other() -> None:
    with pytest.raises(ValueError, match="one value per channel, std > 0"):
        AffectDataPreprocessor(mean=(1.0, 2.0), std=(1.0,))
    with pytest.raises(ValueError, match="one value per channel, std > 0"):
        AffectDataPreprocessor(mean=(1.0,), std=(0.0,))
