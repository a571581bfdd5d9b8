"""Motion components: what moves and how fast, nothing of what stands still."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hocp_mm.functional import fold_frames, unfold_frames
from hocp_mm.functional.motion import motion
from hocp_mm.functional.native import native_available
from tests.laws import assert_close


def random_factors(channels=5, components=3, size=3, dtype=torch.float64):
    sizes = {"in": channels, "t": size, "out": channels}
    return {name: torch.randn(length, components, dtype=dtype) for name, length in sizes.items()}


def by_definition(clip, factors, before, rectifier):
    """``y[o] + sum_q out[o, q] | sum_k d[k, q] sum_c in[c, q] y[c, t + k - before] |``, one number after the other."""
    frames = clip.shape[2]
    taps = factors["t"] - factors["t"].mean(0)
    seen = torch.einsum("ncthw,cq->nqthw", clip, factors["in"])
    out = clip.clone()
    for t, q in itertools.product(range(frames), range(taps.shape[1])):
        places = [min(max(t + k - before, 0), frames - 1) for k in range(len(taps))]
        difference = sum(taps[k, q] * seen[:, q, place] for k, place in enumerate(places))
        rectified = difference.abs() if rectifier == "abs" else difference.clamp_min(0)
        out[:, :, t] += factors["out"][:, q, None, None] * rectified[:, None]
    return out


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "before"), [(3, 1), (3, 2), (3, 0), (2, 1), (5, 2), (4, 3)])
@pytest.mark.parametrize("rectifier", ["abs", "relu"])
@pytest.mark.parametrize("frames", [2, 3, 7])
def test_is_its_definition_with_and_without_gradients(rectifier, size, before, frames, layout):
    clip = torch.randn(2, 5, frames, 3, 4, dtype=torch.float64)
    factors = random_factors(size=size)
    expected = by_definition(clip, factors, before, rectifier)
    for recording in (True, False):
        images = fold_frames(clip).contiguous(memory_format=layout).clone(memory_format=torch.preserve_format)
        with torch.set_grad_enabled(recording):
            found = motion(images, factors, frames, before, rectifier)
        assert_close(unfold_frames(found, frames), expected, 1e-12, f"recording={recording}")


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_is_its_definition_in_single_precision(data):
    """Where there is a compiler this is the compiled kernel."""
    size = data.draw(st.integers(2, 5))
    channels, components, frames = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 40), st.integers(2, 9)))
    clips, height, width = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
    before, rectifier = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from(["abs", "relu"]))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    clip = torch.randn(clips, channels, frames, height, width)
    factors = random_factors(channels, components, size, torch.float32)
    exact = {name: factor.double() for name, factor in factors.items()}
    expected = by_definition(clip.double(), exact, before, rectifier)
    layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    images = fold_frames(clip).contiguous(memory_format=layout).clone(memory_format=torch.preserve_format)
    with torch.no_grad():
        assert_close(
            unfold_frames(motion(images, factors, frames, before, rectifier), frames), expected, 1e-5, "motion"
        )


@pytest.mark.parametrize("rectifier", ["abs", "relu"])
def test_what_is_no_number_stays_none_in_all_frames_that_see_it(rectifier):
    factors = random_factors(dtype=torch.float32)
    images = torch.randn(8, 5, 2, 2)
    images[3, 0, 1, 1] = torch.nan
    with torch.no_grad():
        found = motion(images, factors, 8, 1, rectifier).isnan()
    assert found[2:5, :, 1, 1].all()
    assert found.sum() == 15


@pytest.mark.skipif(not native_available(), reason="no compiled kernel")
def test_the_compiled_kernel_runs_where_it_can_and_nowhere_else(monkeypatch):
    ran = []
    monkeypatch.setattr("hocp_mm.functional.native.operators.run_motion", lambda *a: ran.append(a))
    images, factors = torch.randn(4, 5, 3, 3), random_factors(dtype=torch.float32)

    def runs(images, factors):
        ran.clear()
        motion(images, factors, 4, 1)
        return bool(ran)

    with torch.no_grad():
        assert runs(images, factors)
        assert not runs(images.double(), {name: factor.double() for name, factor in factors.items()})
        assert not runs(images[:, :, :0], factors)
        with torch.autocast("cpu"):
            assert not runs(images, factors)
        torch.func.vmap(lambda batch: motion(batch, factors, 4, 1))(images[None])
        assert not ran
    assert not runs(images, factors)  # gradients are recorded
    with torch.inference_mode():
        assert runs(images, factors)


@pytest.mark.parametrize("recording", [True, False])
def test_under_autocast_the_sum_keeps_the_dtype_of_what_is_added_to(recording):
    factors = random_factors(dtype=torch.float32)
    for dtype, error in ((torch.float32, 2e-2), (torch.bfloat16, 4e-2)):
        images = torch.randn(8, 5, 4, 4).to(dtype)
        expected = by_definition(
            unfold_frames(images.double(), 4), {n: f.double() for n, f in factors.items()}, 1, "abs"
        )
        with torch.set_grad_enabled(recording), torch.autocast("cpu", torch.bfloat16):
            found = motion(images, factors, 4, 1)
        assert found.dtype == dtype
        assert_close(unfold_frames(found, 4), expected, error, f"{dtype}")


def test_gradients_are_right():
    factors = {name: factor.requires_grad_() for name, factor in random_factors(3, 2).items()}
    images = torch.randn(8, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(images, *parts):
        return motion(images, dict(zip(factors, parts, strict=True)), 4, 1)

    assert torch.autograd.gradcheck(run, (images, *factors.values()))


def test_what_stands_still_and_a_single_frame_are_left_alone():
    images = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    factors = random_factors()
    learning = {name: factor.requires_grad_() for name, factor in random_factors().items()}
    same = motion(images, learning, 1, 1)
    assert torch.equal(same, images)
    gradients = torch.autograd.grad(same.sum(), list(learning.values()))  # none that processes would wait for
    assert not any(gradient.any() for gradient in gradients)
    with torch.no_grad():
        assert motion(images, factors, 1, 1) is images
    still = images.repeat_interleave(6, 0)
    assert_close(motion(still.clone(), factors, 6, 1), still, 1e-14, "a still clip")
    clip = torch.randn(12, 5, 4, 4, dtype=torch.float64)
    assert (motion(clip.clone(), factors, 6, 1) - clip).abs().max() > 0.1
    shifted = {**factors, "t": factors["t"] + 7}  # the mean of the taps says nothing
    assert_close(motion(clip.clone(), shifted, 6, 1), motion(clip.clone(), factors, 6, 1), 1e-12, "shifted taps")


@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, "autocast"])
def test_what_stands_still_far_from_zero_is_left_alone(dtype, recording):
    held = torch.float32 if dtype == "autocast" else dtype
    factors = random_factors(16, 20, 4, held)
    still = (torch.randn(1, 16, 3, 3) + 100).to(held).repeat(6, 1, 1, 1)
    with torch.set_grad_enabled(recording), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        found = motion(still.clone(), factors, 6, 1)
    # In the higher precisions BLAS may round the same frame in two ways.
    assert (found - still).abs().max() <= {torch.float64: 1e-11, torch.float32: 1e-2}.get(dtype, 0)


def test_autograd_learns_that_what_it_kept_was_overwritten():
    for dtype in (torch.float32, torch.float64):
        leaf = torch.randn(4, 5, 2, 2, dtype=dtype, requires_grad=True)
        images = (leaf * 1).contiguous(memory_format=torch.channels_last)
        loss = images.square().sum()
        with torch.no_grad():
            motion(images, random_factors(dtype=dtype), 4, 1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_one_frame_does_not_meet_factors_that_are_no_numbers():
    images, factors = torch.randn(3, 5, 2, 2), random_factors(dtype=torch.float32)
    factors["out"][0, 0] = torch.inf
    learning = {name: factor.requires_grad_() for name, factor in factors.items()}
    assert torch.equal(motion(images, learning, 1, 1), images)


def test_clips_do_not_see_each_other_and_causal_taps_not_the_future():
    factors = random_factors()
    clip = torch.randn(12, 5, 2, 2, dtype=torch.float64)
    whole = motion(clip.clone(), factors, 4, 2)
    assert_close(whole[4:8], motion(clip[4:8].clone(), factors, 4, 2), 1e-14, "the middle clip alone")
    other = clip.clone()
    other[6:8] += 1  # the last two frames of the middle clip
    assert torch.equal(motion(other, factors, 4, 2)[:6], whole[:6])


def test_a_blob_that_goes_either_way_is_seen_by_how_fast_it_goes():
    """A difference without the rectifier has no mean over directions: this is what the components are for."""
    generator = torch.Generator().manual_seed(0)
    speeds = 2 * torch.rand(64, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (64,), generator=generator) * 2 - 1
    times = torch.arange(6, dtype=torch.float64)
    values = (signs * speeds)[:, None] * times  # [clips, frames]
    images = values.reshape(-1, 1, 1, 1)
    factors = {
        "in": torch.ones(1, 1).double(),
        "t": torch.tensor([[-1.0], [0], [1]]).double(),
        "out": torch.ones(1, 1).double(),
    }
    seen = (motion(images.clone(), factors, 6, 1) - images).view(64, 6).mean(1)
    assert torch.corrcoef(torch.stack([seen, speeds]))[0, 1] > 0.999
    plain = torch.nn.functional.pad(values[:, None], (1, 1), mode="replicate")[:, 0]
    linear = (plain[:, 2:] - plain[:, :-2]).mean(1)
    assert torch.corrcoef(torch.stack([linear, speeds]))[0, 1].abs() < 0.3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 5}, "multiple of frames=5, got 12"),
        ({"frames": 0}, "multiple of frames=0"),
        ({"before": 3}, "before must be one of 3 taps, of a component at least, got 3"),
        ({"before": -1}, "before must be one of 3 taps, of a component at least, got -1"),
        ({"rectifier": "square"}, "rectifier must be one of .*'square'"),
        ({"factors": random_factors(4)}, "factors must have 5 channels"),
        ({"factors": random_factors(5, 0)}, "one of 3 taps, of a component at least, got 1"),
        ({"factors": {**random_factors(), "t": torch.zeros(3, 4).double()}}, "as many components"),
        ({"factors": {**random_factors(), "out": torch.zeros(6, 3).double()}}, "factors must have 5 channels"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    arguments = {"factors": random_factors(), "frames": 4, "before": 1, "rectifier": "abs", **change}
    with pytest.raises(ValueError, match=said):
        motion(torch.randn(12, 5, 2, 2).double(), **arguments)
