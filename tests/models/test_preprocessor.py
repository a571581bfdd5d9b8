"""`AffectDataPreprocessor` stacks and normalises, and names the clip that does not fit."""

from typing import Any

import pytest
import torch

from hocp_mm.models.data_preprocessors import AffectDataPreprocessor
from hocp_mm.structures import AffectDataSample


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
