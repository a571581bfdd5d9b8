"""A walk over a video: maps at the place of the crop, honest gaps, windows and moments as in `AffectInferencer`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hocp_mm.analysis.grad_cam import GradCam
from hocp_mm.apis import AffectInferencer, open_source
from hocp_mm.apis.explaining import Explainer, Seen, explain, look, strongest_changes, window_around
from hocp_mm.datasets import FaceTrack
from hocp_mm.datasets.faces.crops import crop_frame
from hocp_mm.errors import HOCPError, NoFaceError
from hocp_mm.launch import ClipRule
from tests.material.tiny_configs import noise, portrait, portrait_box, tiny_config, tiny_network, write_checkpoint

SIZE = (160, 120)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = tiny_config(size=64)
    return write_checkpoint(tmp_path_factory.mktemp("explaining") / "tiny.pth", cfg, tiny_network(cfg))


@pytest.fixture(scope="module")
def explainer(checkpoint: Path) -> Explainer:
    return Explainer(checkpoint, device="cpu")


def video(frames: int = 12) -> Any:
    return open_source(np.stack(noise(frames, SIZE)), fps=25)


def track(frames: int, hidden: range) -> FaceTrack:
    boxes = np.tile(np.float32([[50, 30, 90, 70]]), (frames, 1)) + np.arange(frames, dtype=np.float32)[:, None]
    found = np.ones(frames, np.bool_)
    found[list(hidden)] = False
    return FaceTrack(boxes, found)


def test_what_it_says_is_what_the_inferencer_says(checkpoint: Path, explainer: Explainer):
    timeline = AffectInferencer(checkpoint, device="cpu").predict(video(), "frame", stride=3)
    seen = look(explainer, video(), "frame", stride=3)
    np.testing.assert_allclose(np.clip(np.stack(seen.affect), -1, 1), timeline.pred, atol=1e-5)
    assert explainer.expressions == ()
    assert all(parameter.grad is None for parameter in explainer.model.parameters())


def test_maps_are_the_mean_of_those_of_all_windows(explainer: Explainer):
    """Of 12 frames, windows of 8 begin at 0 and 4."""
    source = video()
    seen = look(explainer, source, "frame", stride=4)
    cam, rule = GradCam(explainer.model, explainer.layer), explainer.rule
    crops = np.stack([crop_frame(frame.picture, None, 0, 1.0, rule.size) for frame in source.frames()])
    maps = [cam(explainer.normalised([crops[start : start + 8]]))[1][0] for start in (0, 4)]
    expected = torch.cat([maps[0][:4], (maps[0][4:] + maps[1][:4]) / 2, maps[1][4:]]).numpy()
    np.testing.assert_allclose(np.stack(seen.maps), expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_mirrored_views_are_averaged_in_place(explainer: Explainer):
    """A picture and its mirror image: their mean does not care which of them was given."""
    pictures = np.stack(noise(8, (64, 64)))
    one, other = (look(explainer, open_source(x, fps=25), "frame", flip=True) for x in (pictures, pictures[:, :, ::-1]))
    np.testing.assert_allclose(np.stack(one.maps), np.stack(other.maps)[..., ::-1], atol=1e-5)


def test_without_a_face_there_is_no_map(explainer: Explainer):
    """A gap longer than a window of 8 frames ends a scene."""
    frames, hidden = 40, range(10, 25)
    seen = look(explainer, video(frames), track(frames, hidden))
    assert [number for number, one in enumerate(seen.maps) if one is None] == list(hidden)
    assert np.isnan(np.stack(seen.affect)[10:25]).all()
    assert seen.runs == [0] * 10 + [-1] * 15 + [1] * 15
    assert [seen.squares[number] is None for number in (9, 12, 25)] == [False, True, False]
    # A square of 1.3 sides of the box, around it; boxes move evenly, so that their mean is where they are.
    np.testing.assert_allclose(seen.squares[5], np.float32([44, 24, 96, 76]) + 5, atol=1e-3)
    empty = track(frames, range(frames))
    with pytest.raises(NoFaceError, match="a face must be seen in some of the frames, got none of 40"):
        look(explainer, video(frames), empty)


def rule_of(**words: Any) -> ClipRule:
    return ClipRule(
        **{"size": 32, "margin": 1.3, "smooth": 5, "clip_len": 4, "frame_interval": 1, "stride": 2, **words}
    )


def seen_of(runs: list[int], fps: float = 25.0) -> Seen:
    return Seen(times=[number / fps for number in range(len(runs))], runs=runs)


def test_windows_lie_within_their_scene():
    seen = seen_of([0] * 6 + [-1] + [1] * 3)
    assert window_around(seen, 3, rule_of()) == ([1, 2, 3, 4], 2)
    assert window_around(seen, 0, rule_of()) == ([0, 1, 2, 3], 0)
    assert window_around(seen, 5, rule_of()) == ([2, 3, 4, 5], 3)
    assert window_around(seen, 8, rule_of()) == ([7, 8, 9, 9], 1)  # shorter than a window
    assert window_around(seen, 3, rule_of(clip_len=2, frame_interval=2)) == ([1, 3], 1)
    # At half the rate every other frame; an odd one is nearest to a moment beside it.
    assert window_around(seen, 4, rule_of(clip_len=3, fps=12.5)) == ([0, 2, 4], 2)


def test_changes_across_scenes_do_not_count():
    seen = seen_of([0] * 20 + [1] * 20)
    values = np.zeros((40, 2), np.float32)
    values[20:] = 1  # from one scene to the next
    values[30:, 0] = 0.5
    values[8:, 1] += 0.2
    seen.affect = list(values)
    valence, arousal = strongest_changes(seen)
    assert 28 <= valence <= 32
    assert 6 <= arousal <= 10


def test_files_and_facts(explainer: Explainer, tmp_path: Path):
    stages: list[str] = []
    found = explain(
        explainer, video(20), tmp_path / "x", "frame", progress=lambda stage, *_: stages.append(stage), frames=[9],
        at=[0.48],
    )  # fmt: skip
    assert all(file.stat().st_size > 0 for file in found.files)
    assert len(found.files) == 8
    assert list(dict.fromkeys(stages)) == ["reading affect", "drawing", "frames that count", "which frames moved it"]
    assert [one["frame"] for one in found.facts["moved_by_frames"]] == [9, 12]
    field = found.facts["receptive_field"]
    assert field["by_kernels"] == {"past": 9, "future": 9, "frames": 19, "seconds": 0.76}
    assert not field["causal"]
    for one in found.facts["moved_by_frames"]:
        rows = [line.split(",") for line in (tmp_path / "x_explain_frames.csv").read_text().splitlines()[1:]]
        moved = sum(float(row[4]) for row in rows if row[0] == str(one["frame"]))
        whole = one["in_this_window"]["valence"] - one["of_the_still_face"]["valence"]
        assert moved + one["not_attributed"]["valence"] == pytest.approx(whole, abs=1e-4)
    share = [float(line.split(",")[2]) for line in (tmp_path / "x_explain_field.csv").read_text().splitlines()[1:]]
    assert sum(share) == pytest.approx(1, abs=1e-4)


WRONG = {
    "a frame behind the end": ({"frames": [20]}, "--frame: must be one of 0 to 19, got 20"),
    "a time behind the end": ({"at": [9.0]}, "--at: must lie in the 0.76 s of the video, got 9"),
}


@pytest.mark.parametrize("case", WRONG)
def test_moments_that_are_not_there(case: str, explainer: Explainer, tmp_path: Path):
    words, text = WRONG[case]
    with pytest.raises(HOCPError, match=text):
        explain(explainer, video(20), tmp_path / "x", "frame", **words)
    assert not list(tmp_path.iterdir())


def test_a_frame_that_shows_nobody_has_nothing_to_explain(explainer: Explainer, tmp_path: Path):
    with pytest.raises(HOCPError, match="--frame: somebody must be seen in it, got 12"):
        explain(explainer, video(40), tmp_path / "x", track(40, range(10, 25)), frames=[12])
    with pytest.raises(ValueError, match="one at a time"):
        look(explainer, video(), "frame", person="all")


def test_the_map_of_a_planted_corner_lies_on_that_corner_of_the_face(checkpoint: Path, tmp_path: Path):
    """A network that sees the upper left of a crop alone: nothing else on the film has a colour."""
    explainer = Explainer(checkpoint, device="cpu", layer=r"layer1$")
    assert explainer.layer == "backbone.net.layer1"

    def blind(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(output)
        kept[..., : output.shape[-2] // 2, : output.shape[-1] // 2] = output[
            ..., : output.shape[-2] // 2, : output.shape[-1] // 2
        ]
        return kept

    explainer.model.backbone.net.layer1.register_forward_hook(blind)
    source = open_source(np.stack([portrait((-70, -32), 0.9)] * 8), fps=25)
    box = portrait_box((-70, -32), 0.9)
    seen = look(explainer, source, (*box[:2], *(box[2:] - box[:2])))
    maps = np.abs(np.stack([one for one in seen.maps if one is not None]))
    half = maps.shape[-1] // 2
    assert maps[..., :half, :half].max() > 0
    assert not maps[..., half:, :].any()
    assert not maps[..., half:].any()


class PoolOverTime(torch.nn.Module):
    """A neck that averages three frames, of which kernels do not tell."""

    def forward(self, feats: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        wider = [torch.nn.functional.pad(x, (0, 0, 0, 0, 1, 1)) for x in feats]
        return tuple((x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 3 for x in wider)


def test_what_kernels_do_not_tell_of_is_told_by_gradients_alone(checkpoint: Path):
    explainer: Any = Explainer(checkpoint, device="cpu")
    for module in explainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.fill_(1)  # some shut a branch at the start
    kernels, measured = explainer.field()
    assert kernels == measured
    explainer.model.neck = PoolOverTime()
    wrong, found = explainer.field()
    assert wrong is None
    limit = explainer.rule.clip_len + 1
    assert (found.past, found.future) == (min(measured.past + 1, limit), min(measured.future + 1, limit))
