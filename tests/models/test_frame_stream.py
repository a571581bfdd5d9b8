"""What a network says of a stream is what it says of the clip of all its frames, and what it keeps does not grow."""

from typing import Any

import pytest
import torch
from torch import nn

from hocp_mm.functional import native_available
from hocp_mm.functional.native import StepPlan
from hocp_mm.layers import HOCPConv3d, add_motion_, streaming
from hocp_mm.models import AffectHead, AffectRecognizer, FrameStream, HOCPTemporalNeck, TimmHOCPBackbone
from tests.laws import assert_close

SIZE = 32
_SILENT = ("motion.factors.out", "context.weights", "expand.weight", "regress.weight")


def alive(network: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    """Let every factor that begins at nothing say something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("factors.t"):
                parameter.normal_(std=0.6)
            elif name.endswith(_SILENT) or ("projections" in name and name.endswith("weights")):
                parameter.normal_(std=0.3)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
    return network.eval().to(dtype)


def backbone(name: str = "test_resnet", dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    torch.manual_seed(0)
    return alive(TimmHOCPBackbone(name, rank=4, **options), dtype)


def clip_of(frames: int, network: Any, size: int = SIZE) -> torch.Tensor:
    return torch.randn(3, frames, size, size, dtype=next(network.parameters()).dtype)


def said_of(stream: FrameStream, clip: torch.Tensor, chunks: list[int], key: str = "me") -> Any:
    """Return what is said of a clip in chunks, with the rest at its end."""
    said = [stream.push({key: chunk})[key] for chunk in clip.split(chunks, dim=1)]
    return join([*said, stream.end(key)[key]])


def join(said: list[Any]) -> Any:
    if isinstance(said[0], torch.Tensor):
        return torch.cat(said, dim=1 if said[0].ndim == 4 else 0)
    return tuple(torch.cat(maps, dim=1) for maps in zip(*said, strict=True))


def assert_streams(
    network: Any, clip: torch.Tensor, chunks: list[int], tolerance: float, size: int = SIZE
) -> FrameStream:
    stream = FrameStream(network, size)
    with torch.inference_mode():
        whole = network(clip[None])
    whole = (whole,) if isinstance(whole, torch.Tensor) else whole
    found = said_of(stream, clip, chunks)
    for stage, expected in zip((found,) if isinstance(found, torch.Tensor) else found, whole, strict=True):
        assert_close(stage, expected[0], tolerance, f"{clip.shape[1]} frames in chunks {chunks}")
    return stream


@pytest.mark.parametrize("init", ["last", "central", "uniform"])
@pytest.mark.parametrize(
    ("taps", "motion"), [(1, None), *((taps, motion) for taps in (3, 5) for motion in (None, {"rank": 2}))]
)
def test_a_stream_equals_the_clip(taps, init, motion):
    network = backbone(temporal_kernel=taps, temporal_init=init, motion=motion, out_indices=(0, 2, -1))
    for frames, chunks in ((1, [1]), (2, [1, 1]), (9, [4, 1, 1, 3])):
        stream = assert_streams(network, clip_of(frames, network), chunks, 1e-12)
    # From the last convolution that sees time back to the first, each taps // 2 frames, twice with motion.
    longest = len(network.transducted) * (taps // 2) * (2 if motion else 1)
    assert stream.delay == (0 if init == "last" else longest)


@pytest.mark.parametrize("init", ["last", "central"])
def test_a_stream_equals_the_clip_in_float32(init):
    network = backbone("resnet18", torch.float32, temporal_init=init, motion={"rank": 2})
    assert_streams(network, clip_of(6, network), [2, 1, 3], 1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_efficientnet", {"motion": {"rank": 2}}),  # depthwise layers, squeeze-excitation
        ("test_nfnet", {}),  # standardised weights
        ("test_byobnet", {"reparameterize": False}),
        ("skresnet18", {}),  # branches that are weighed against each other
        ("densenet121", {"temporal_layers": ["denseblock1", "transition"]}),  # maps side by side
        ("tf_efficientnet_cc_b0_4e", {"temporal_layers": ["blocks.[23]"]}),  # kernels that a frame mixes for itself
        ("test_resnet", {"conv_options": {"gate_cfg": {"type": "SE"}, "inner_norm_cfg": {"type": "BN"}}}),
        ("test_resnet", {"temporal_init": "last", "factorize": [], "grad_checkpointing": True, "return_tensor": True}),
        ("test_resnet", {"head_features": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_branches_meet_again(name, options):
    """A branch that looks ahead meets others that do not, wherever a network joins them."""
    network = backbone(name, **options)
    stream = assert_streams(network, clip_of(4, network), [1, 3], 1e-11)
    assert (stream.delay > 0) == (options.get("temporal_init") != "last")


def test_frames_that_a_network_cuts_into_parts_are_streams_of_their_own():
    network = backbone("lambda_resnet26t", temporal_layers=["stages.2"])
    assert_streams(network, clip_of(3, network, 64), [2, 1], 1e-11, size=64)


@pytest.mark.skipif(not native_available(), reason="needs the compiled kernel")
@pytest.mark.parametrize("init", ["last", "central"])
def test_the_compiled_step_says_the_same(init, monkeypatch):
    """It runs wherever no stream begins or ends; odd and whole vectors of components, several frames and streams."""
    torch.manual_seed(0)
    options = {"temporal_kernel": 5, "temporal_init": init, "motion": {"rank": 2}}
    network = alive(TimmHOCPBackbone("test_resnet", rank={"layers?.?0": 5, ".": 16}, **options), torch.float32)
    clips = {key: clip_of(30, network) for key in "ab"}
    chunks = [1, 20, 1, 3, 5]

    def said() -> list[torch.Tensor]:
        stream = FrameStream(network, SIZE)
        parts = [clip.split(chunks, dim=1) for clip in clips.values()]
        pushed = [stream.push(dict(zip("ab", together, strict=True))) for together in zip(*parts, strict=True)]
        rest = stream.end()
        return [join([*(own[key] for own in pushed), rest[key]])[0] for key in "ab"]

    calls, run = [], StepPlan.__call__
    monkeypatch.setattr(StepPlan, "__call__", lambda self, *args: calls.append(self) or run(self, *args))
    compiled = said()
    assert len(calls) > 20
    monkeypatch.setattr(streaming, "step_fits", lambda *_: False)
    for one, other, clip in zip(compiled, said(), clips.values(), strict=True):
        assert_close(one, other, 1e-5, "the compiled step against PyTorch's operations")
        assert_close(one, network(clip[None])[0][0].detach(), 1e-5, "the compiled step against the clip")


def test_weights_may_change_between_steps():
    """Packed kernels are not those of before."""
    network = backbone(temporal_init="last", dtype=torch.float32)
    stream, clip = FrameStream(network, SIZE), clip_of(3, network)
    stream.push({"a": clip})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
    stream.reset()
    for stage, expected in zip(said_of(stream, clip, [1, 1, 1]), network(clip[None]), strict=True):
        assert_close(stage, expected[0].detach(), 1e-5, "after a step of training")


def recognizer(causal: bool, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    neck = options.pop("neck", {})
    own = backbone(temporal_init="last" if causal else "central", out_indices=options.pop("out_indices", (-1,)))
    stages = own.out_channels
    network = AffectRecognizer(
        own,
        AffectHead(stages[-1], num_expressions=options.pop("expressions", None)),
        HOCPTemporalNeck(stages if len(stages) > 1 else stages[0], 8, 3, 5, rank=4, causal=causal, **neck),
        **options,
    )
    network = alive(network, dtype)
    network.head.regress.bias.data.normal_()
    return network


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "central"])
@pytest.mark.parametrize(
    "options",
    [
        {"neck": {"dilations": (1, 2), "spatial_kernel": 3}},
        {"out_indices": (0, 1, -1), "neck": {"last_only": True}},
        {"expressions": 5, "test_cfg": {"flip": True}},
    ],
    ids=["neck", "stages", "expressions-flip"],
)
def test_a_recognizer_says_of_a_stream_what_it_says_of_the_clip(causal, options, monkeypatch):
    network = recognizer(causal, **options)
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)  # heads predict float32, which hides what is below 1e-7
    stream = FrameStream(network, SIZE)
    assert (stream.delay == 0) == causal
    for chunks in ([1], [3, 1, 6]):
        clip, frames = clip_of(sum(chunks), network), sum(chunks)
        found = said_of(stream, clip, chunks)
        with torch.inference_mode():
            views = [clip[None], clip[None].flip(-1)][: 1 + network.flip]
            whole = torch.stack([network.head.predict(network.extract_feat(view), frames)[0] for view in views]).mean(0)
        assert_close(found, whole, 1e-12, f"chunks {chunks}")
        assert_close(found[:, :2], network(clip[None], mode="predict")[0].pred_affect, 1e-6, "what samples get")
        assert frames == 1 or float(whole.std(0).min()) > 1e-4  # it is not blind


@pytest.mark.parametrize("init", ["last", "central"])
def test_streams_come_and_go_without_each_other(init):
    """Two begin, one of them ends, another comes: each has what it has alone, in batches of any company."""
    network = backbone(temporal_init=init, motion={"rank": 2})
    stream, alone = FrameStream(network, SIZE), FrameStream(network, SIZE)
    clips = {key: clip_of(7, network) for key in "abc"}
    said: dict[str, list[Any]] = {key: [] for key in clips}
    places = dict.fromkeys(clips, 0)
    for counts in ({"a": 2, "b": 2}, {"b": 1}, {"a": 5, "b": 1, "c": 3}, {"c": 4, "b": 3}):
        given = {key: clips[key][:, places[key] : places[key] + count] for key, count in counts.items()}
        for key, own in stream.push(given).items():
            said[key].append(own)
            places[key] += counts[key]
        if counts.get("a") == 5:
            said["a"].append(stream.end("a")["a"])
            assert stream.streams == ("b", "c")
    for key, own in stream.end().items():
        said[key].append(own)
    assert stream.streams == ()
    for key, clip in clips.items():
        for stage, expected in zip(join(said[key]), said_of(alone, clip, [7]), strict=True):
            assert_close(stage, expected, 1e-12, key)


def held_bytes(stream: FrameStream) -> int:
    """Return the memory behind all that is kept, which a small view of a large tensor would keep, too."""
    kept = [
        x
        for views in stream.state_dict()["streams"].values()
        for v in views
        for own in v["memory"].values()
        for x in own
    ]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}.values())


@pytest.mark.parametrize("init", ["last", "central"])
def test_what_is_kept_does_not_grow(init):
    network = backbone(temporal_init=init, motion={"rank": 2})
    stream = FrameStream(network, SIZE)
    sizes = []
    for count in (20, 1, 1, 100, 1):
        stream.push({key: clip_of(count, network) for key in "ab"})
        sizes.append(held_bytes(stream))
    assert len(set(sizes)) == 1
    stream.end("a")
    assert held_bytes(stream) == sizes[0] / 2
    # Of each layer the components of two frames, R of the factors and 2 of the motion; and what waits for others.
    numbers: list[int] = []
    for layer in network.net.modules():
        if hasattr(layer, "frame_axis"):
            layer.register_forward_hook(lambda own, _, y: numbers.append(2 * (own.rank + 2) * y[0, 0].numel()))
    network(clip_of(1, network)[None])
    kept = 8 * sum(numbers)
    assert held_bytes(stream) == kept if init == "last" else held_bytes(stream) > kept


def test_a_state_can_be_kept_and_taken_up_elsewhere(tmp_path):
    network = backbone(temporal_init="central", motion={"rank": 2})
    clip = clip_of(8, network)
    stream = FrameStream(network, SIZE)
    first = stream.push({"a": clip[:, :5]})["a"]
    torch.save(stream.state_dict(), tmp_path / "state.pth")
    stream.push({"a": clip[:, :3]})  # what goes on here does not change what was kept
    other = FrameStream(network, SIZE)
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    found = join([first, other.push({"a": clip[:, 5:]})["a"], other.end("a")["a"]])
    for stage, expected in zip(found, network(clip[None]), strict=True):
        assert_close(stage, expected[0].detach(), 1e-12, "taken up")


def test_states_of_others_are_refused_before_anything_changes():
    network = backbone(temporal_init="last")
    stream = FrameStream(network, SIZE)
    stream.push({"a": clip_of(2, network)})
    good = stream.state_dict()
    view = good["streams"]["a"][0]
    name = next(iter(view["memory"]))
    cut = {**view, "memory": {**view["memory"], name: view["memory"][name][:1]}}
    single = {**view, "memory": {n: [x.float() for x in own] for n, own in view["memory"].items()}}
    for bad in (
        {},
        {**good, "size": [64, 64]},
        {**good, "delay": 3},
        {**good, "streams": {"a": []}},
        {**good, "streams": {"a": [{**view, "frames": 0}]}},
        {**good, "streams": {"a": [{**view, "memory": {}}]}},
        {**good, "streams": {"a": [cut]}},
        {**good, "streams": {"a": [single]}},
    ):
        with pytest.raises(ValueError, match="the state is not of this network"):
            stream.load_state_dict(bad)
    assert stream.streams == ("a",)
    stream.load_state_dict(good)


def test_a_step_that_fails_leaves_the_stream_as_it_was():
    network = backbone(temporal_init="central")
    stream, clip = FrameStream(network, SIZE), clip_of(6, network)
    said = [stream.push({"a": clip[:, :3]})["a"]]
    last = network.net.layer4 if hasattr(network.net, "layer4") else list(network.net.children())[-1]
    handle = last.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stream.push({"a": clip[:, 3:]})
    handle.remove()
    assert network(clip[None])[0].shape[2] == 6  # clips are clips again
    said += [stream.push({"a": clip[:, 3:]})["a"], stream.end()["a"]]
    for stage, expected in zip(join(said), network(clip[None]), strict=True):
        assert_close(stage, expected[0].detach(), 1e-12, "after the failure")


class _Mixes(nn.Module):
    """A layer that looks at other frames in its own way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean(0, keepdim=True)


class _Hides(nn.Module):
    """An operation that PyTorch does not see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() * 1)


@pytest.mark.parametrize(("layer", "init"), [(_Mixes, "last"), (_Hides, "central")])
def test_what_is_not_understood_is_refused(layer, init):
    network = backbone(temporal_init=init)
    block = next(m for m in network.net.modules() if hasattr(m, "act2") or hasattr(m, "act3"))
    setattr(block, "act2" if hasattr(block, "act2") else "act3", layer())
    with pytest.raises(NotImplementedError, match=r"what it says of a clip, got a relative difference"):
        FrameStream(network, SIZE)


def test_parts_that_are_unknown_are_refused():
    own = backbone(temporal_init="last")
    head = AffectHead(own.out_channels[-1])
    with pytest.raises(NotImplementedError, match="a TimmHOCPBackbone or an AffectRecognizer, got Linear"):
        FrameStream(nn.Linear(2, 2).eval(), SIZE)
    with pytest.raises(NotImplementedError, match=r"the parts must be .* got Identity"):
        FrameStream(AffectRecognizer(own, head, nn.Identity()).eval(), SIZE)
    neck = HOCPTemporalNeck(own.out_channels[-1], 8, norm_cfg={"type": "IN"}, rank=4)
    with pytest.raises(NotImplementedError, match="a norm with running statistics"):
        FrameStream(AffectRecognizer(own, head, neck).eval().double(), SIZE)
    with pytest.raises(ValueError, match="in evaluation mode"):
        FrameStream(own.train(), SIZE)


def test_frames_that_do_not_fit_are_refused_before_anything_happens():
    network = backbone(temporal_init="last")
    stream = FrameStream(network, (32, 40))
    good = torch.zeros(3, 1, 32, 40, dtype=torch.float64)
    for bad in (good[:, :0], good[:, :, :31], good[:2], good.float(), good[None]):
        with pytest.raises(ValueError, match=r"frames must be \[3, n, 32, 40\] with n >= 1 in torch.float64 on cpu"):
            stream.push({"a": good, "b": bad})
        assert stream.streams == ()
    with pytest.raises(ValueError, match="size must be positive"):
        FrameStream(network, 0)
    with pytest.raises(KeyError):
        stream.end("nobody")
    assert stream.end() == {}
    assert stream.push({}) == {}


def test_a_layer_of_three_modes_has_no_memory_of_its_own():
    """Motion in a neck's own layers is not known to streams, and is not left out in silence."""
    network = recognizer(causal=True)
    layer = network.neck.blocks[0].context
    assert isinstance(layer, HOCPConv3d)
    layer.motion = add_motion_and_return()
    with pytest.raises(NotImplementedError, match=r"neck\.blocks\.0\.context"):
        FrameStream(network, SIZE)


def add_motion_and_return() -> nn.Module:
    network = backbone(temporal_init="last")
    name = add_motion_(network.net, rank=2)[0]
    return network.net.get_submodule(name).motion
