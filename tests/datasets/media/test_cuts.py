"""Cuts are found at their frame; motion, light, noise and flashes are none."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hocp_mm.datasets.media.cuts import CutFinder


def scene(seed, frames, speed=1.0):
    """Return a camera that moves over a picture of coloured blobs, RGB uint8 ``[frames, 72, 128, 3]``."""
    rng = np.random.default_rng(seed)
    world = cv2.resize(rng.uniform(0, 255, (7, 12, 3)).astype(np.float32), (320, 200), interpolation=cv2.INTER_CUBIC)
    world = np.clip(0.6 * world + 0.4 * rng.uniform(0, 255, 3), 0, 255).astype(np.uint8)
    x, y = rng.uniform(0, 320 - 128 - 20), rng.uniform(0, 200 - 72 - 10)
    pan = rng.uniform(-1, 1, 2) * speed
    shown = []
    for number in range(frames):
        left = int(np.clip(x + pan[0] * number, 0, 320 - 128))
        top = int(np.clip(y + pan[1] * number, 0, 200 - 72))
        noise = rng.normal(0, 3, (72, 128, 3))
        shown.append(np.clip(world[top : top + 72, left : left + 128] + noise, 0, 255).astype(np.uint8))
    return np.array(shown)


def cuts_of(frames):
    """Return the frames before which there is a cut, of each of which the next frame tells."""
    finder = CutFinder()
    found = [number - 1 for number, frame in enumerate(frames) if finder.push(frame)]
    return [*found, len(frames) - 1] if finder.end() else found


@settings(max_examples=25, deadline=None)
@example(seed=2526, first=2, second=2, speed=0.0)  # two scenes of one colour: nobody promises to tell them apart
@given(seed=st.integers(0, 10_000), first=st.integers(2, 30), second=st.integers(2, 30), speed=st.floats(0, 4))
def test_a_cut_is_found_at_its_frame_and_motion_is_none(seed, first, second, speed):
    one, two = scene(seed, first, speed), scene(seed + 20_000, second, speed)
    assert cuts_of(one) == []
    assume(np.abs(one.mean((0, 1, 2)) - two.mean((0, 1, 2))).max() > 15)
    assert cuts_of(np.concatenate([one, two])) == [first]


def test_several_cuts_are_found():
    parts = [scene(seed, 12) for seed in range(5)]
    assert cuts_of(np.concatenate(parts)) == [12, 24, 36, 48]


LIGHT = {
    "a flash of one frame": lambda n: 1.0 if n != 20 else 1.9,
    "a black frame": lambda n: 1.0 if n != 20 else 0.0,
    "a fade to black and back": lambda n: abs(20 - n) / 20,
    "clouds": lambda n: 1 + 0.3 * np.sin(n / 3),
    "flicker": lambda n: 1 + 0.08 * (-1) ** n,
}


@pytest.mark.parametrize("name", LIGHT)
def test_light_is_no_cut(name):
    frames = scene(3, 40)
    assert cuts_of(np.array([np.clip(f * LIGHT[name](n), 0, 255).astype(np.uint8) for n, f in enumerate(frames)])) == []


def test_a_film_of_one_frame_or_none_has_no_cut():
    assert cuts_of(scene(1, 1)) == []
    assert cuts_of([]) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (1000, 700)])
def test_pictures_of_every_size_are_compared(size):
    dark, light = np.full((*size, 3), 20, np.uint8), np.full((*size, 3), 230, np.uint8)
    assert cuts_of(np.array([dark] * 6 + [light] * 6)) == [6]


def test_noise_is_no_film_with_a_cut_in_every_frame():
    rng = np.random.default_rng(0)
    assert cuts_of(rng.integers(0, 255, (30, 40, 60, 3), dtype=np.uint8)) == []
