"""Motion components in layers and networks: nothing at the start, the same in every kind of layer."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

from hocp_mm.functional import fold_frames, unfold_frames
from hocp_mm.layers import (
    FrameAxis,
    HOCPConv2d,
    HOCPConv3d,
    MotionComponents,
    add_motion_,
    complexity,
    exportable,
    merge_dense_,
    prune_ranks_,
    transduct_,
)
from tests.laws import assert_close

CLIP = (2, 3, 5, 8, 8)


def image_network() -> nn.Sequential:
    """A stem that sees no time, an HO-CP layer, a depthwise one, a strided HO-CP one."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        HOCPConv2d(8, 8, 3, padding=1, rank=6),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        HOCPConv2d(8, 4, 3, stride=2, padding=1, rank=4),
    ).double()


def video_network(motion=None, size=3, init="central"):
    torch.manual_seed(0)
    net, axis = image_network(), FrameAxis()
    transduct_(net, size, init, frame_axis=axis, motion=motion)
    return net.eval(), axis


def run(net, axis, clip):
    axis.clips, axis.length = len(clip), clip.shape[2]
    return unfold_frames(net(fold_frames(clip)), clip.shape[2])


def awaken_(net):
    """Give all motion components a say."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("motion.factors.out"):
                parameter.normal_()
    return net


@pytest.mark.parametrize(("size", "init"), [(3, "central"), (3, "last"), (5, "central"), (2, "last")])
def test_nothing_changes_at_the_start_and_still_clips_stay_for_ever(size, init):
    clip = torch.randn(CLIP, dtype=torch.float64)
    plain, plain_axis = video_network(None, size, init)
    net, axis = video_network({"rank": "x0.5"}, size, init)
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert sorted({key.rpartition(".")[2] for key in missing}) == ["in", "out", "t"]
    assert all(".motion.factors." in key for key in missing)
    assert not unexpected
    assert torch.equal(run(net, axis, clip), run(plain, plain_axis, clip))
    awaken_(net)
    assert (run(net, axis, clip) - run(plain, plain_axis, clip)).abs().max() > 0.01
    still = clip[:, :, :1].expand(CLIP)
    # Up to the padding of the plain temporal factors, which have one tap that is not zero.
    assert_close(run(net, axis, still), run(plain, plain_axis, still), 1e-12, "a still clip")
    frame = clip[:, :, :1]
    assert torch.equal(run(net, axis, frame), run(plain, plain_axis, frame))


def test_patterns_choose_layers_and_words_reach_them():
    net, axis = video_network()
    assert add_motion_(net, layers=["^2$"], rank=3, rectifier="relu") == ["2"]
    assert isinstance(net[2].motion, MotionComponents)
    assert net[4].motion is None
    assert net[2].motion.factors["in"].shape == (8, 3)
    assert "rank=3, temporal_kernel=3, rectifier='relu'" in str(net[2].motion)
    with pytest.raises(ValueError, match=r"layers must match none with motion components, got \['2', '4'\] \('2'\)"):
        add_motion_(net, layers=["2", "4"])
    assert net[4].motion is None
    assert add_motion_(net) == ["4", "5"]
    assert [tuple(net[place].motion.factors["out"].shape) for place in (2, 4, 5)] == [(8, 3), (8, 1), (4, 1)]
    assert next(net[5].motion.parameters()).dtype == torch.float64
    run(net, axis, torch.randn(CLIP, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"add_motion_: layers must match one with a temporal factor, got '\^0'"):
        add_motion_(net, layers="^0")
    with pytest.raises(ValueError, match=r"MotionComponents: size must be 2 taps or more, got 1"):
        video_network({"rank": 2}, 1)
    with pytest.raises(TypeError):
        add_motion_(video_network()[0], ranks=3)


def test_what_has_been_learnt_stays_when_other_layers_follow():
    net, axis = image_network(), FrameAxis()
    transduct_(net, 3, layers=["^2$"], frame_axis=axis, motion={"rank": 3})
    awaken_(net)
    learnt = net[2].motion.factors["out"].clone()
    transduct_(net, 3, layers=["^5$"], frame_axis=axis, motion={"rank": 3})
    assert torch.equal(net[2].motion.factors["out"], learnt)
    assert net[5].motion is not None


@pytest.mark.parametrize(
    ("motion", "said"),
    [
        ({"layers": ["nothing"]}, "layers must match one"),
        ({"layers": ["^0"]}, "layers must match one"),
        ({"rank": "many"}, "rank"),
        ({"rectifier": "Abs"}, "rectifier must be one of .*, got 'Abs'"),
    ],
)
def test_what_is_refused_leaves_the_network_alone(motion, said):
    net = image_network()
    before = list(net)
    with pytest.raises(ValueError, match=said):
        transduct_(net, 3, frame_axis=FrameAxis(), motion=motion)
    assert all(one is other for one, other in zip(net, before, strict=True))
    with pytest.raises(ValueError, match="before must be one of 3 taps, got 7"):
        MotionComponents(8, 3, 7)
    transduct_(net, 3, frame_axis=FrameAxis())
    with pytest.raises(ValueError, match=r"layers must match none that sees time already, got \['\^2\$'\] \('2'\)"):
        transduct_(net, 3, layers=["^2$"], frame_axis=FrameAxis())


@pytest.mark.parametrize("compute", [weight_norm, lambda factors, name: prune.l1_unstructured(factors, name, 0.5)])
def test_factors_that_are_computed_of_others_are_live(compute):
    """``weight_norm`` and ``prune`` leave a tensor in the place of a factor, and a hook that nobody would call."""
    net, axis = video_network({"rank": 3})
    awaken_(net)
    factors, clip = net[2].motion.factors, torch.randn(CLIP, dtype=torch.float64)
    compute(factors, "in")
    source = dict(factors.named_parameters())["in_v" if compute is weight_norm else "in_orig"]
    for _ in range(2):  # a second pass through one graph would be refused
        run(net, axis, clip).sum().backward()
    assert source.grad.any()
    with torch.no_grad():
        before = run(net, axis, clip)
        source.normal_()
        after = run(net, axis, clip)
        assert (after - before).abs().max() > 1e-3
        axis.clips, axis.length = CLIP[0], CLIP[2]
        assert_close(unfold_frames(exportable(net)(fold_frames(clip)), CLIP[2]), after, 1e-12, "the twin")


@pytest.mark.parametrize("init", ["central", "last"])
def test_causal_networks_see_no_later_frame(init):
    net, axis = video_network({"rank": 4}, 3, init)
    awaken_(net)
    clip = torch.randn(CLIP, dtype=torch.float64)
    other = clip.clone()
    other[:, :, -1] += 1
    same = torch.isclose(run(net, axis, clip), run(net, axis, other)).all(4).all(3).all(1).all(0)
    assert bool(same[:-1].all()) == (init == "last")


def test_the_3d_layer_computes_what_the_folded_one_does():
    torch.manual_seed(0)
    image = HOCPConv2d(6, 8, 3, padding=1, rank=5).double()
    net, axis = nn.Sequential(image), FrameAxis()
    transduct_(net, 3, frame_axis=axis, motion={"rank": 3, "rectifier": "relu"})
    awaken_(net)
    video = HOCPConv3d(6, 8, 3, padding=1, rank=5, motion_cfg={"rank": 3, "rectifier": "relu"}).double()
    video.load_state_dict(net[0].state_dict())
    clip = torch.randn(2, 6, 4, 5, 5, dtype=torch.float64)
    expected = run(net, axis, clip)
    assert_close(video(clip), expected, 1e-12, "a batch")
    assert_close(video(clip[0]), expected[0], 1e-12, "a clip without a batch")
    strided = HOCPConv3d(6, 8, 3, stride=(2, 1, 1), padding=1, rank=5, motion_cfg={"rank": 3})
    assert strided(clip.float()).shape == (2, 8, 2, 5, 5)
    with pytest.raises(ValueError, match=r"HOCPConv2d: motion_cfg is for layers with time, got \{'rank': 3\}"):
        HOCPConv2d(6, 8, 3, motion_cfg={"rank": 3})


def test_frames_in_parts_are_clips_of_their_own():
    """Attention heads and windows cut a frame into parts that lie next to each other in the batch."""
    net, axis = video_network({"rank": 4})
    awaken_(net)
    parts = torch.randn(3, *CLIP[1:], dtype=torch.float64)  # of one clip
    expected = run(net, axis, parts)
    axis.clips, axis.length = 1, CLIP[2]
    mixed = parts.permute(2, 0, 1, 3, 4).flatten(0, 1)  # [T * parts, C, H, W]
    found = net(mixed).unflatten(0, (CLIP[2], 3)).permute(1, 2, 0, 3, 4)
    assert_close(found, expected, 1e-12, "parts")


def test_cost_counts_them_and_no_twin_has_them():
    plain, plain_axis = video_network()
    net, axis = video_network({"rank": 3})
    images = fold_frames(torch.randn(CLIP, dtype=torch.float64))
    for each in (plain_axis, axis):
        each.clips, each.length = CLIP[0], CLIP[2]
    without, with_them = complexity(plain, images), complexity(net, images)
    positions = {"2": 2 * 5 * 64, "4": 2 * 5 * 64, "5": 2 * 5 * 16}
    channels = {"2": 8, "4": 8, "5": 4}
    each = {name: 3 * (2 * channels[name] + 3) for name in positions}
    assert with_them.total.macs - without.total.macs == sum(each[name] * positions[name] for name in positions)
    assert with_them.total.parameters == sum(p.numel() for p in net.parameters())
    assert with_them.total.parameters - without.total.parameters == sum(each.values())
    assert with_them.dense == without.dense
    assert with_them.parent == without.parent


def test_motion_of_one_frame_costs_nothing_and_time_is_measured():
    (plain, plain_axis), (net, axis) = video_network(), video_network({"rank": 3})
    plain_axis.clips, plain_axis.length, axis.clips, axis.length = 2, 1, 2, 1
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert complexity(net, images).total.macs == complexity(plain, images).total.macs
    axis.length = 5
    rows = complexity(net, fold_frames(torch.randn(CLIP).double()), measure=1).rows
    moving = [row for row in rows if row.name.endswith("motion")]
    assert len(moving) == 3
    assert all(row.milliseconds > 0 for row in moving)


def test_merging_refuses_and_pruning_keeps_them():
    net, axis = video_network({"rank": 3})
    awaken_(net)
    clip = torch.randn(CLIP, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match=r"got motion components, which are not linear \(layer '0'\)"):
        merge_dense_(nn.Sequential(HOCPConv3d(4, 4, 3, rank=2, motion_cfg={"rank": 1})))
    with torch.no_grad():
        net[2].weights[::2] = 0
    before = run(net, axis, clip)
    kept = {name: tensor.clone() for name, tensor in net[2].motion.state_dict().items()}
    prune_ranks_(net)
    assert net[2].rank == 3
    assert_close(run(net, axis, clip), before, 1e-12, "pruned")
    assert all(torch.equal(kept[name], tensor) for name, tensor in net[2].motion.state_dict().items())


def test_networks_with_them_can_be_exported():
    net, axis = video_network({"rank": 3})
    awaken_(net).float()
    axis.clips, axis.length = CLIP[0], CLIP[2]
    images = fold_frames(torch.randn(CLIP))
    with torch.no_grad():
        expected = net(images.clone())
        twin = exportable(net)
        assert_close(twin(images.clone()), expected, 1e-5, "the twin")
        program = torch.export.export(twin, (images.clone(),), strict=False)
        assert_close(program.module()(images.clone()), expected, 1e-5, "exported")
        traced = torch.jit.trace(twin, (images.clone(),))
        assert_close(traced(images.clone()), expected, 1e-5, "traced")
