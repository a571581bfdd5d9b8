"""Names of timm models, and weights for another number of input channels."""

import pytest
import timm
import torch

from hocp_mm.checkpoints import adapt_first_conv, check_timm_name, download_timm_weights
from hocp_mm.errors import CheckpointError, UnknownModelError

# Small networks whose stems differ: plain, behind a deeper path, two branches at once.
STEMS = {"resnet18": 1, "mobilenetv3_small_050": 1, "mobileone_s0": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights by name of the network, as a file and as a state dict."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name in STEMS:
        torch.manual_seed(1)
        state = timm.create_model(name).state_dict()
        torch.save(state, folder / f"{name}.pth")
        found[name] = (folder / f"{name}.pth", state)
    return found


@pytest.mark.parametrize("in_chans", [1, 2, 4, 7])
@pytest.mark.parametrize("name", STEMS)
def test_stems_are_adapted_as_timm_does_when_it_loads_the_file(trained, name, in_chans):
    path, state = trained[name]
    overlay = {"file": str(path), "url": "", "hf_hub_id": None}
    theirs = timm.create_model(name, pretrained=True, in_chans=in_chans, pretrained_cfg_overlay=overlay).state_dict()
    ours = adapt_first_conv(name, state, in_chans)
    assert list(ours) == list(theirs)
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key
    assert sum(ours[key] is not state[key] for key in state) == STEMS[name]


@pytest.mark.parametrize("in_chans", [1, 3, 5])
def test_weights_that_fit_already_stay_the_same_tensors(in_chans):
    state = {"conv1.weight": torch.randn(64, in_chans, 7, 7), "fc.weight": torch.ones(2, 2)}
    adapted = adapt_first_conv("resnet18", state, in_chans)
    assert adapted is not state
    assert all(adapted[key] is state[key] for key in state)


def test_a_file_without_the_stem_is_left_to_the_account_of_the_transfer():
    state = {"layer1.0.conv1.weight": torch.ones(2, 2, 3, 3)}
    assert adapt_first_conv("resnet18", state, 1) == state


def test_a_stem_that_folds_pixels_into_channels_can_become_grey_and_nothing_else():
    state = {"body.conv1.conv.weight": torch.randn(64, 48, 3, 3)}
    grey = adapt_first_conv("tresnet_m", state, 1)["body.conv1.conv.weight"]
    pixels = state["body.conv1.conv.weight"].unflatten(1, (16, 3))
    assert torch.allclose(grey, pixels.sum(2))
    with pytest.raises(CheckpointError, match=r"must fit in_chans=2, got 'body.conv1.conv.weight' of shape \(64, 48"):
        adapt_first_conv("tresnet_m", state, 2)


def test_channels_must_be_positive():
    with pytest.raises(ValueError, match="in_chans must be positive, got 0"):
        adapt_first_conv("resnet18", {}, 0)


def test_downloaded_weights_are_adapted(monkeypatch):
    kernel = torch.randn(64, 3, 7, 7)

    class Downloaded:
        def state_dict(self):
            return {"conv1.weight": kernel}

    asked = []
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: asked.append((names, options)) or Downloaded())
    assert download_timm_weights("resnet18.a1_in1k", 1)["conv1.weight"].shape == (64, 1, 7, 7)
    assert download_timm_weights("resnet18.a1_in1k")["conv1.weight"] is kernel
    assert asked == [(("resnet18.a1_in1k",), {"pretrained": True})] * 2


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "botnet50ts_256", "botnet50ts_256.untrained"])
def test_names_and_tags_of_timm_are_known(name):
    check_timm_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"must be known, got 'resnet19' \(nearest: .*resnet18.*; timm "),
        ("resnet18.a1_in2k", r"tag .* must be known, got 'resnet18.a1_in2k' \(nearest: a1_in1k, "),
        ("botnet50ts_256.a1", r"got 'botnet50ts_256.a1' \(nearest: none; timm "),
    ],
)
def test_others_are_refused_with_the_nearest(name, message):
    with pytest.raises(UnknownModelError, match=message):
        check_timm_name(name)


@pytest.mark.parametrize("shape", [(), (0,), (64,), (64, 3), (64, 3, 7), (64, 3, 1, 7, 7)])
def test_a_first_kernel_of_another_order_stays_for_the_account_to_tell(shape):
    state = {"conv1.weight": torch.ones(shape)}
    assert adapt_first_conv("resnet18", state, in_chans=1)["conv1.weight"] is state["conv1.weight"]


@pytest.mark.parametrize("in_chans", [1, 2, 4])
@pytest.mark.parametrize(
    "shape", [(10**12, 0, 7, 7), (0, 3, 7, 7), (64, 3, 0, 7), (10**12, 0, 0, 0), (10**6, 0, 10**6, 1)]
)
def test_a_first_kernel_without_numbers_becomes_none_with_any(shape, in_chans):
    """The sum over no colours is a zero for each output: a file of a kilobyte asked for gigabytes."""
    state = {"conv1.weight": torch.empty(shape)}
    assert adapt_first_conv("resnet18", state, in_chans)["conv1.weight"] is state["conv1.weight"]


@pytest.mark.parametrize(
    ("shape", "in_chans"), [((2**16, 3, 7, 7), 2**10), ((2**28, 3, 1, 1), 1), ((1, 3, 1, 1), 2**27)]
)
def test_a_first_kernel_does_not_become_larger_than_any(shape, in_chans):
    state = {"conv1.weight": torch.zeros(1, dtype=torch.uint8).expand(shape)}
    with pytest.raises(CheckpointError, match=rf"^timm: a first kernel for in_chans={in_chans} must have at most"):
        adapt_first_conv("resnet18", state, in_chans)
