"""Frames that come one by one behind those that are kept give what the whole clip gives."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hocp_mm.functional.padding import Window
from hocp_mm.functional.streaming import components, extend, temporal_step
from tests.laws import assert_close, random_kernel


def padded(clip, before, after, ends):
    """Return a clip ``[T, ...]`` with what lies beyond its ends."""
    zero = torch.zeros_like(clip[:1])
    first, last = (zero, zero) if ends == "zeros" else (clip[:1], clip[-1:])
    return torch.cat([*[first] * before, clip, *[last] * after])


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 5),
    before=st.integers(0, 4),
    dilation=st.integers(1, 3),
    held=st.integers(0, 4),
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    ends=st.sampled_from(["zeros", "repeat"]),
)
def test_any_chunks_give_the_convolution_of_the_padded_clip(size, before, dilation, held, chunks, ends):
    """Behind layers that have held frames back: what comes for frames that do not exist is NaN, and is never seen."""
    before = min(before, size - 1)
    torch.manual_seed(sum(chunks))
    frames, length = sum(chunks), (size - 1) * dilation
    clip, taps = torch.randn(frames, 1, 3, 2, 2, dtype=torch.float64), torch.randn(size, 3, dtype=torch.float64)
    ahead = (size - 1 - before) * dilation
    whole = padded(clip, before * dilation, ahead, ends).movedim(0, 1)  # [1, T, 3, 2, 2]
    kernel = taps.T.reshape(3, 1, size, 1)
    expected = F.conv2d(whole.flatten(3).permute(0, 2, 1, 3), kernel, dilation=(dilation, 1), groups=3)
    nothing = torch.full_like(clip[:1], torch.nan)
    came = torch.cat([*[nothing] * held, clip, *[nothing] * (length + 1)])
    past, given_, first = [], [], -held
    for count in [*chunks, held + length + 1]:
        end = frames if first + count > frames else None
        sequence = extend(past, came[first + held :][:count].unbind(), length, first, end, ends)
        past = sequence[len(sequence) - length :]
        given_.append(temporal_step([sequence], taps, dilation))
        first += count
    found = torch.cat(given_)[held + ahead :][:frames]
    assert_close(found, expected[0].movedim(1, 0).unflatten(2, (2, 2)), 1e-13, f"{size} taps, {ends}")


def test_sequences_of_a_batch_are_convolved_alike():
    taps = torch.randn(3, 4)
    sequences = [[torch.randn(2, 4, 5, 3) for _ in range(4)] for _ in range(3)]
    together = temporal_step(sequences, taps)
    assert_close(together, torch.cat([temporal_step([own], taps) for own in sequences]), 0, "streams")
    values = taps[..., None, None]
    frames = [sum(own[t + k] * values[k] for k in range(3)) for own in sequences for t in range(2)]
    assert_close(together, torch.cat(frames), 1e-6, "the definition")


def test_components_are_those_before_the_temporal_taps():
    kernel = random_kernel(out=3, in_=4, taps=(3, 3, 3), rank=5)
    images = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    found = components(images, kernel, Window((2, 1), ((1, 1), (0, 2)), (1, 1)))
    projected = torch.einsum("nchw,cr->nrhw", images, kernel.factors["in"])
    taps = torch.einsum("hr,wr->rhw", kernel.factors["h"], kernel.factors["w"]).unsqueeze(1)
    assert_close(found, F.conv2d(F.pad(projected, (0, 2, 1, 1)), taps, stride=(2, 1), groups=5), 1e-12, "components")


@pytest.mark.parametrize(("past", "new"), [(2, 0), (1, 1)])
def test_what_is_kept_must_be_of_one_length(past, new):
    frame = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match=f"2 or none of the past are needed, got {new} and {past}"):
        extend([frame] * past, [frame] * new, 2, 0, None, "zeros")
