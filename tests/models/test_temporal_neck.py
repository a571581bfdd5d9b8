"""The temporal neck: identity at first, then an eye for motion."""

import pytest
import torch
import torch.nn.functional as F

from hocp_mm.checkpoints import load_image_weights_
from hocp_mm.functional import dense_kernel
from hocp_mm.layers import HOCPConv3d, merge_dense_
from hocp_mm.models import HOCPTemporalNeck
from hocp_mm.registry import MODELS
from tests.laws import assert_close, state_shapes

SETTINGS = {
    "as the recipe has it": {},
    "long context": {"dilations": (1, 2, 4)},
    "with spatial extent": {"spatial_kernel": 3, "dilations": 2},
    "causal": {"causal": True, "dilations": (1, 3)},
    "causal with spatial extent": {"causal": True, "spatial_kernel": 3},
    "group norm": {"norm_cfg": {"type": "GN", "num_groups": 2}, "act_cfg": {"type": "PReLU"}},
    "no norm and no activation": {"norm_cfg": None, "act_cfg": None},
    "all stages": {"in_channels": (4, 6, 12)},
    "all stages, causal": {"in_channels": [4, 6, 12], "causal": True},
}
SIZES = ((9, 8), (5, 7), (3, 5))  # of three stages


def build(**options) -> HOCPTemporalNeck:
    return MODELS.build(
        {"type": "hocp_mm.HOCPTemporalNeck", "in_channels": 12, "hidden_channels": 8, "rank": 6, **options}
    )


def randomised(**options) -> HOCPTemporalNeck:
    """Build a neck far from its start, in evaluation mode."""
    neck = build(**options)
    with torch.no_grad():
        for tensor in (*neck.parameters(), *(b for n, b in neck.named_buffers() if n.endswith("running_mean"))):
            tensor.normal_()
    return neck.eval()


def three_stages(frames: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(batch, c, frames, *size) for c, size in zip((4, 6, 12), SIZES, strict=True))


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("frames", [1, 2, 40])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_neck_starts_as_the_identity(options, frames, training):
    feats = three_stages(frames)
    out = build(**options).train(training)(feats)
    assert isinstance(out, tuple)
    assert all(after is before for after, before in zip(out[:-1], feats[:-1], strict=True))
    assert torch.equal(out[-1], feats[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_under_autocast_the_neck_starts_as_the_identity_and_trains(dtype):
    neck = build(in_channels=(4, 6, 12), dilations=(1, 2))
    feats = tuple(stage.to(dtype) for stage in three_stages(5))  # a backbone under autocast may return either
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        out = neck(feats)[-1]
    assert out.dtype == dtype
    assert torch.equal(out, feats[-1])
    out.float().square().mean().backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in neck.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(neck(feats)[-1], feats[-1])


def test_the_state_dict_of_the_recipe_stays_what_old_checkpoints_hold():
    def conv(name, out, in_, taps):
        factors = {"out": out, "in": in_, "t": taps, "h": 1, "w": 1}
        return {f"{name}.weights": (128,), **{f"{name}.factors.{m}": (n, 128) for m, n in factors.items()}}

    norm = {f"blocks.0.norm.{n}": (128,) for n in ("weight", "bias", "running_mean", "running_var")}
    neck = MODELS.build({"type": "hocp_mm.HOCPTemporalNeck", "in_channels": 512})
    assert state_shapes(neck) == {
        **conv("blocks.0.difference", 128, 512, 3),
        **conv("blocks.0.context", 512, 128, 9),
        **norm,
        "blocks.0.norm.num_batches_tracked": (),
    }


@pytest.mark.parametrize("frames", [1, 2, 5, 30])
@pytest.mark.parametrize(
    "options", [{}, {"dilations": (4,)}, {"spatial_kernel": 3}, {"spatial_kernel": 3, "causal": True}], ids=str
)
def test_a_block_computes_what_dense_convolutions_of_the_padded_clip_do(options, frames):
    block = randomised(**options).double().blocks[0]
    dilation, reach = options.get("dilations", (1,))[0], options.get("spatial_kernel", 1) // 2

    def dense(conv, x):
        span = dilation * (conv.kernel_size[0] - 1)
        sides = (span, 0) if options.get("causal") else (span // 2, span // 2)
        return F.conv3d(
            F.pad(x, (*[reach] * 4, *sides), mode="replicate"), dense_kernel(conv.kernel()), dilation=(dilation, 1, 1)
        )

    x = torch.randn(2, 12, frames, 5, 3, dtype=torch.float64)
    n, shape = block.norm, (1, -1, 1, 1, 1)
    z = (dense(block.difference, x) - n.running_mean.view(shape)) / (n.running_var.view(shape) + n.eps).sqrt()
    z = (z * n.weight.view(shape) + n.bias.view(shape)).clamp(min=0)
    assert_close(block(x), x + dense(block.context, z), 1e-12, f"block {options}")


def test_the_first_convolution_starts_blind_to_what_stands_still():
    block = build().blocks[0]
    still = torch.randn(2, 12, 1, 3, 3).expand(-1, -1, 7, -1, -1)
    assert block.difference(still).abs().max() < 1e-5
    assert block.difference(torch.randn(2, 12, 7, 3, 3)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({}, 11),
        ({"dilations": (1, 2, 4)}, 71),
        ({"dilations": (3,), "difference_kernel": 5, "context_kernel": 1}, 13),
        ({"dilations": (1, 2), "causal": True}, 31),
    ],
    ids=str,
)
def test_an_output_frame_depends_on_as_many_frames_as_the_receptive_field_says(options, frames):
    neck = randomised(**options)
    assert neck.receptive_field == frames
    x = torch.randn(1, 12, 2 * frames + 1, 3, 3, requires_grad=True)
    neck((x,))[0][:, :, frames].square().sum().backward()
    seen = x.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
    past = frames - 1 if options.get("causal") else frames // 2
    assert (seen[0], seen[-1]) == (frames - past, frames - past + frames - 1)


@pytest.mark.parametrize("changed", [0, 3, 11])
@pytest.mark.parametrize("in_channels", [12, (4, 6, 12)], ids=["last stage", "all stages"])
def test_a_causal_neck_does_not_look_ahead(in_channels, changed):
    options = {"in_channels": in_channels, "spatial_kernel": 3, "dilations": (1, 3)}
    feats = three_stages(12)
    other = tuple(stage.clone() for stage in feats)
    for stage in other:
        stage[:, :, changed] += 1
    neck = randomised(causal=True, **options)
    before, after = neck(feats)[-1], neck(other)[-1]
    assert torch.equal(before[:, :, :changed], after[:, :, :changed])
    assert not torch.equal(before[:, :, changed], after[:, :, changed])
    if changed:
        symmetric = randomised(**options)
        assert not torch.equal(symmetric(feats)[-1][:, :, :changed], symmetric(other)[-1][:, :, :changed])


def test_the_frames_of_the_receptive_field_suffice_for_a_causal_stream():
    neck = randomised(causal=True, dilations=(1, 2)).double()
    clip = torch.randn(1, 12, 60, 3, 3, dtype=torch.float64)
    window = clip[:, :, -neck.receptive_field :]
    whole, part, short = (neck((x,))[0][:, :, -1] for x in (clip, window, window[:, :, 1:]))
    assert_close(part, whole, 1e-12, "last frame")
    assert not torch.allclose(short, whole)


def test_merging_to_dense_convolutions_keeps_a_causal_neck():
    neck = randomised(causal=True, in_channels=(4, 6, 12), spatial_kernel=3).double()
    feats = tuple(stage.double() for stage in three_stages(7))
    expected = neck(feats)[-1]
    merge_dense_(neck)
    assert not any(isinstance(module, HOCPConv3d) for module in neck.modules())
    assert_close(neck(feats)[-1], expected, 1e-12, "merged neck")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize("fine_frames", [24, 8])
def test_other_stages_are_averaged_or_repeated_to_the_size_of_the_last_one_and_projected(fine_frames, memory_format):
    neck = build(in_channels=(4, 6, 12)).double()
    with torch.no_grad():
        for projection in neck.fusion.projections:
            projection.weights.normal_()
    sizes = ((4, fine_frames, 6, 12), (6, 2, 1, 2), (12, 8, 3, 4))
    fine, coarse, last = (torch.randn(2, *s, dtype=torch.float64).to(memory_format=memory_format) for s in sizes)
    averaged = fine.reshape(2, 4, 8, fine_frames // 8, 3, 2, 4, 3).mean((3, 5, 7))
    repeated = coarse.repeat_interleave(4, 2).repeat_interleave(3, 3).repeat_interleave(2, 4)
    expected = last
    for stage, projection in zip((averaged, repeated), neck.fusion.projections, strict=True):
        weight = dense_kernel(projection.kernel()).flatten(1)
        expected = expected + torch.einsum("oc,ncthw->nothw", weight, stage)
    assert_close(neck((fine, coarse, last))[-1], expected, 1e-12, "fused stages")


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_the_first_step_moves_what_is_zero_and_the_second_one_everything(options):
    neck = build(**options)
    feats = three_stages(6)
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        before = {name: p.detach().clone() for name, p in neck.named_parameters()}
        optimizer.zero_grad()
        out = neck(feats)[-1]
        (out * torch.randn_like(out)).sum().backward()
        optimizer.step()
        moved.append({name for name, p in neck.named_parameters() if not torch.equal(before[name], p)})
    last = {n for n in before if n.endswith("context.weights") or (n.startswith("fusion") and n.endswith(".weights"))}
    assert len(last) == len(neck.blocks) + (0 if neck.fusion is None else 2)
    assert moved[0] == last
    assert moved[1] == set(before)


def test_an_unknown_neck_stays_at_its_start_when_weights_are_transferred():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "neck": build(in_channels=(4, 12))})
    state = {f"backbone.{name}": tensor for name, tensor in torch.nn.Linear(2, 2).state_dict().items()}
    report = load_image_weights_(model, state, source="a test")
    assert report.complete
    assert set(report.added) == {f"neck.{name}" for name in model["neck"].state_dict()}
    trained = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    assert not load_image_weights_(model, trained, source="a test").added


REFUSED_OPTIONS = {
    "no difference": ({"difference_kernel": 1}, "kernels must be odd, difference_kernel at least 3"),
    "even difference": ({"difference_kernel": 4}, "kernels must be odd, difference_kernel at least 3"),
    "even context": ({"context_kernel": 2}, "kernels must be odd, difference_kernel at least 3, got 3 and context_ke"),
    "even space": ({"spatial_kernel": 2}, "kernels must be odd.* spatial_kernel 2"),
    "no block": ({"dilations": ()}, r"dilations must be positive and at least one, got \(\)"),
    "dilation zero": ({"dilations": (1, 0)}, r"dilations must be positive and at least one, got \(1, 0\)"),
    "no stage": ({"in_channels": ()}, "in_channels must be positive and at least one"),
    "no channel": ({"in_channels": (4, 0)}, "in_channels must be positive and at least one"),
    "norm over time": ({"causal": True, "norm_cfg": {"type": "GN", "num_groups": 2}}, "needs a norm with running stat"),
    "norm of the batch": ({"causal": True, "norm_cfg": {"type": "BN", "track_running_stats": False}}, "running stat"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED_OPTIONS.values(), ids=REFUSED_OPTIONS)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


REFUSED_FEATS = {
    "other channels": (12, [(2, 6, 4, 3, 3)], r"needs the last stage to be.*got shapes \[\(2, 6, 4, 3, 3\)\]"),
    "an image": (12, [(2, 12, 3, 3)], "needs the last stage to be"),
    "no frame": (12, [(2, 12, 0, 3, 3)], "at least one frame"),
    "no stage": (12, [], r"got shapes \[\]"),
    "a stage less": ((6, 12), [(2, 12, 4, 3, 3)], r"in_channels=\(6, 12\) needs all stages .* got shapes"),
    "a stage more": ((6, 12), [(2, 4, 4, 9, 9), (2, 6, 4, 5, 5), (2, 12, 4, 3, 3)], "needs all stages"),
    "stages in another order": ((6, 12), [(2, 12, 4, 3, 3), (2, 6, 4, 5, 5)], "needs all stages"),
    "stages of other batches": ((6, 12), [(1, 6, 4, 5, 5), (2, 12, 4, 3, 3)], "of one N"),
}


@pytest.mark.parametrize(("in_channels", "shapes", "message"), REFUSED_FEATS.values(), ids=REFUSED_FEATS)
def test_features_that_do_not_fit_are_refused_with_their_shapes(in_channels, shapes, message):
    with pytest.raises(ValueError, match=message):
        build(in_channels=in_channels)(tuple(torch.zeros(shape) for shape in shapes))


def test_nested_features_are_refused():
    with pytest.raises(TypeError, match=r"must be a tensor or a tuple of tensors, got \['list'\]"):
        build()(([torch.zeros(2, 12, 4, 3, 3)],))


def test_a_causal_neck_refuses_stages_with_other_numbers_of_frames():
    feats = (torch.zeros(2, 6, 8, 3, 3), torch.zeros(2, 12, 4, 3, 3))
    with pytest.raises(ValueError, match=r"causal=True needs stages of as many frames, got shapes \[\(2, 6, 8, 3, 3\)"):
        build(in_channels=(6, 12), causal=True)(feats)
