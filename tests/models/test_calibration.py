"""Weights that are put into CP form on pictures: nearer to the dense network than kernels alone can tell."""

import numpy as np
import pytest
import skimage.data
import skimage.transform
import timm
import torch
from torch import Tensor, nn

from hocp_mm.checkpoints import DecompositionCache
from hocp_mm.errors import CheckpointError
from hocp_mm.models import TimmHOCPBackbone
from hocp_mm.models.backbones import calibration
from hocp_mm.models.backbones.calibration import fill_dense_

NAME, STAGES, RANK = "test_resnet", (0, 1, 2, 3, 4), 8


def pictures() -> list[Tensor]:
    """Return 4 batches of 16 crops of photographs, ``[16, 3, 48, 48]``."""
    rng = np.random.default_rng(0)
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    crops = []
    for number in range(64):
        photo = photos[number % len(photos)]
        side = int(rng.integers(60, 200))
        y, x = (int(rng.integers(0, size - side)) for size in photo.shape[:2])
        crops.append(skimage.transform.resize(photo[y : y + side, x : x + side], (48, 48)))
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()
    return list(((images - 0.45) / 0.22).split(16))


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights as if they had been trained: kernels of falling spectra, norms with statistics of photographs."""
    torch.manual_seed(0)
    net = timm.create_model(NAME, zero_init_last=False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            u, s, v = torch.linalg.svd(module.weight.detach().flatten(1), full_matrices=False)
            falling = s[0] * 0.8 ** torch.arange(len(s))
            module.weight.data = (u * falling @ v).reshape(module.weight.shape)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    net.train()
    with torch.no_grad():
        for batch in pictures():
            net(batch)
    return net.state_dict()


def backbone(**options) -> TimmHOCPBackbone:
    return TimmHOCPBackbone(NAME, rank=RANK, out_indices=STAGES, **options).eval()


@torch.no_grad()
def errors(ours: TimmHOCPBackbone, weights: dict[str, Tensor], images: Tensor) -> list[float]:
    """Compare the stages of a video network, on clips of one frame, with timm's own."""
    dense = timm.create_model(NAME)
    dense.load_state_dict(weights)
    theirs = dense.eval().forward_intermediates(images, indices=list(STAGES), intermediates_only=True)
    maps = ours(images.unsqueeze(2))
    return [float((a[:, :, 0] - b).norm() / b.norm()) for a, b in zip(maps, theirs, strict=True)]


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "trained.pth"
    torch.save(trained, path)
    return str(path)


def test_on_pictures_kept_apart_the_stages_are_nearer_than_kernels_alone_bring_them(trained, file):
    shown = pictures()
    plain, fitted = backbone(), backbone()
    plain.load_image_weights(file)
    report = fitted.load_image_weights(file, pictures=shown)
    assert report.complete
    assert report.judged == 16
    assert sorted(report.classifier) == ["fc.bias", "fc.weight"]
    assert set(report.reconstructed) == set(fitted.factorized)
    before, after = (errors(net, trained, shown[3]) for net in (plain, fitted))
    # What the report says is what the network in use does, on the batch that no fit has seen.
    assert report.stages == pytest.approx(after, rel=1e-4)
    assert after[-1] < 0.75 * before[-1]
    assert "relative error of the stages' features on 16 other pictures: " in str(report)


def test_ranks_follow_the_budget(trained, file):
    net = backbone()
    net.load_image_weights(file, pictures=pictures(), budget=0.2)
    layers = {name: net.net.get_submodule(name) for name in net.factorized}
    spent = sum(layer.rank * (1 + layer.in_channels + layer.out_channels + 6) for layer in layers.values())
    dense = sum(trained[f"{name}.weight"].numel() for name in layers)
    assert 0.15 * dense < spent <= 0.2 * dense
    assert len({layer.rank for layer in layers.values()}) > 1


def test_a_budget_that_leaves_no_component_is_refused(file):
    with pytest.raises(CheckpointError, match=r"calibrate: .*budget must allow for the smallest ranks"):
        backbone().load_image_weights(file, pictures=pictures(), budget=0.001)
    with pytest.raises(ValueError, match=r"a budget needs pictures"):
        backbone().load_image_weights(file, budget=0.2)
    with pytest.raises(CheckpointError, match=r"batches must be 2 or more.*got 1"):
        backbone().load_image_weights(file, pictures=pictures()[:1])


def test_much_that_is_lost_is_a_warning(file):
    report = TimmHOCPBackbone(NAME, rank=1, out_indices=STAGES).load_image_weights(file, pictures=pictures())
    assert max(report.stages) > 0.3
    assert "is lost in a stage; give it a larger budget" in report.warning


def test_weights_in_cp_form_are_what_they_were_made_to_be(file, tmp_path):
    first, second = backbone(), backbone()
    first.load_image_weights(file)
    torch.save(first.net.state_dict(), tmp_path / "cp.pth")
    report = second.load_image_weights(str(tmp_path / "cp.pth"), pictures=pictures())
    assert (report.stages, report.warning) == ([], "")
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


@pytest.mark.parametrize("budget", [None, 0.2])
def test_what_is_not_finite_is_named(trained, tmp_path, budget):
    broken = {**trained, "layer1.0.bn1.weight": trained["layer1.0.bn1.weight"] * torch.inf}
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"weights must be finite, got NaN or inf in layer1\.0\.bn1\.weight"):
        backbone().load_image_weights(str(tmp_path / "broken.pth"), pictures=pictures(), budget=budget)
    torch.save(trained, tmp_path / "sound.pth")
    shown = [pictures()[0], torch.full((2, 3, 48, 48), torch.nan)]
    with pytest.raises(CheckpointError, match=r"calibrate: pictures must be finite"):
        backbone().load_image_weights(str(tmp_path / "sound.pth"), pictures=shown, budget=budget)


ODD = {
    "too large for float32": ("layer1.0.conv1.weight", lambda tensor: tensor.double() * 1e300, "must be finite"),
    "too large to add": ("layer1.0.conv1.weight", lambda tensor: torch.full_like(tensor, 3e38), "must be finite"),
    "a counter of two": ("layer1.0.bn1.num_batches_tracked", lambda _: torch.zeros(2), r"\(2,\) instead of \(\)"),
    "statistics of two": ("layer1.0.bn1.running_var", lambda _: torch.ones(2), r"\(2,\) instead of"),
}


@pytest.mark.parametrize("case", list(ODD))
@pytest.mark.parametrize("shown", [0, 4])
def test_what_cannot_be_compressed_is_named_with_its_file(trained, tmp_path, case, shown):
    name, change, rule = ODD[case]
    torch.save({**trained, name: change(trained[name])}, tmp_path / "odd.pth")
    options = {"pictures": pictures()[:shown], "budget": 0.2} if shown else {}
    if case == "too large to add" and not shown:
        return  # each kernel can be fitted
    with pytest.raises(CheckpointError, match=rf"(?s)(odd\.pth.*{rule}|{rule}.*odd\.pth)"):
        backbone().load_image_weights(str(tmp_path / "odd.pth"), cache=None, **options)


@pytest.mark.parametrize("value", [5, None, {"a": 1}, "x"])
@pytest.mark.parametrize("name", ["conv1.3._extra_state", "layer1.0.conv1._extra_state", "fc._extra_state"])
def test_what_is_no_tensor_is_left_out(trained, tmp_path, name, value):
    torch.save({**trained, name: value}, tmp_path / "extra.pth")
    assert backbone().load_image_weights(str(tmp_path / "extra.pth"), cache=None).complete


@pytest.mark.parametrize("rank", ["auto", "error0.5"])
@pytest.mark.parametrize("lacks", ["factors", "weight"])
def test_a_rank_that_weights_should_say_and_do_not_is_told_by_what_is_missing(trained, tmp_path, rank, lacks):
    """A lambda alone could say a rank that is large for nothing."""
    odd = {name: tensor for name, tensor in trained.items() if name != "layer1.0.conv1.weight"}
    if lacks == "factors":
        odd["layer1.0.conv1.weights"] = torch.zeros(1 << 20, dtype=torch.uint8)
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"every tensor must fit the model, got .*odd\.pth"):
        TimmHOCPBackbone(NAME, rank=rank, factorize="layer1.0.conv1", checkpoint=str(tmp_path / "odd.pth"))


def test_a_budget_that_is_not_spent_is_said(trained, tmp_path):
    lacking = {name: tensor for name, tensor in trained.items() if name != "layer1.0.bn1.bias"}
    torch.save(lacking, tmp_path / "lacking.pth")
    options = {"pictures": pictures(), "budget": 0.2, "allow_missing": True}
    report = backbone().load_image_weights(str(tmp_path / "lacking.pth"), **options)
    assert report.stages == []
    assert "note: not calibrated: " in str(report)


def test_a_layer_of_very_large_patches_is_fitted_to_moments_alone(file, monkeypatch):
    """The second moment of 25 088 entries, as a VGG's first linear layer has them, would take 2.5 GB several times."""
    monkeypatch.setattr(calibration, "_MOST_ENTRIES", 200)
    net = backbone()
    sizes = {name: net.net.get_submodule(name).in_channels * 9 for name in net.factorized}
    report = net.load_image_weights(file, pictures=pictures())
    assert set(report.reconstructed) == {name for name, size in sizes.items() if size <= 200}
    assert 0 < len(report.reconstructed) < len(sizes)
    assert report.complete
    monkeypatch.setattr(calibration, "_MOST_ENTRIES", 1)
    assert backbone().load_image_weights(file, pictures=pictures()).reconstructed == {}


def test_one_batch_given_twice_is_two(file):
    batch = pictures()[0]
    report = backbone().load_image_weights(file, pictures=[batch, batch])
    assert report.judged == len(batch)


def test_no_random_number_is_drawn_and_the_same_pictures_give_the_same_network(file):
    nets = []
    for _ in range(2):
        net = backbone()
        before = torch.get_rng_state()
        net.load_image_weights(file, pictures=pictures())
        assert torch.equal(torch.get_rng_state(), before)
        nets.append(net.state_dict())
    for name, tensor in nets[0].items():
        assert torch.equal(nets[1][name], tensor), name


def test_a_dense_network_is_filled_whole_or_not_at_all(trained):
    net = timm.create_model(NAME)
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    lacking = {name: tensor for name, tensor in trained.items() if name != "layer1.0.conv1.weight"}
    assert not fill_dense_(net, lacking)
    assert not fill_dense_(net, {**trained, "layer1.0.conv1.weight": torch.ones(1)})
    assert not fill_dense_(net, {**trained, "layer1.0.bn1.num_batches_tracked": torch.zeros(2)})
    assert all(torch.equal(own[name], tensor) for name, tensor in net.state_dict().items())
    counters = {name for name in trained if name.endswith("num_batches_tracked")}
    assert fill_dense_(net, {name: tensor for name, tensor in trained.items() if name not in counters})
    assert torch.equal(net.state_dict()["conv1.0.weight"], trained["conv1.0.weight"])


def test_a_calibration_is_kept_and_found_by_all_that_it_depends_on(trained, file, tmp_path, monkeypatch):
    shown, kept = pictures(), tmp_path / "kept"
    first = backbone()
    report = first.load_image_weights(file, pictures=shown, budget=0.2, cache=DecompositionCache(kept))

    def refuse(*args, **kwargs):
        raise AssertionError("fitted although the result is known")

    monkeypatch.setattr(calibration, "reconstruct_", refuse)
    second, cache = backbone(), DecompositionCache(kept)
    again = second.load_image_weights(file, pictures=shown, budget=0.2, cache=cache)
    assert cache.hits == 1
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert (again.reconstructed, again.stages) == (report.reconstructed, report.stages)
    changed = {**trained, "layer1.0.bn1.bias": trained["layer1.0.bn1.bias"] + 1e-6}
    torch.save(changed, tmp_path / "changed.pth")
    other = [shown[0] + 1e-6, *shown[1:]]
    options = {"pictures": shown, "budget": 0.2}
    cases = {
        "weights": (str(tmp_path / "changed.pth"), options),
        "pictures": (file, {**options, "pictures": other}),
        "budget": (file, {**options, "budget": 0.21}),
        "seed": (file, {**options, "seed": 1}),
        "distill": (file, {**options, "distill": 1}),
    }
    for source, changes in cases.values():
        with pytest.raises(AssertionError, match="fitted although"):
            backbone().load_image_weights(source, **changes, cache=DecompositionCache(kept))
    # What it is judged by is no part of it: the judgement is made anew.
    apart = [*shown[:3], shown[3].flip(3)]
    judged = backbone().load_image_weights(file, pictures=apart, budget=0.2, cache=DecompositionCache(kept))
    assert judged.reconstructed == report.reconstructed
    assert judged.stages != report.stages


def test_distillation_brings_the_stages_nearer(trained, file):
    shown = pictures()
    plain, adjusted = backbone(), backbone()
    before = plain.load_image_weights(file, pictures=shown).stages
    after = adjusted.load_image_weights(file, pictures=shown, distill=60).stages
    assert after == pytest.approx(errors(adjusted, trained, shown[3]), rel=1e-4)
    assert after[-1] < 0.97 * before[-1]
