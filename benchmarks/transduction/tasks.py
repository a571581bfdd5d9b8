"""Three tasks, each a pool of short videos in memory that is split by person.

    motion   synthetic faces; most of arousal shows only in how fast the face moves
    noise    synthetic faces; all of arousal shows in one frame, but frames are noisy, blurred and covered
    digits   handwritten digits that move; one frame says nothing of speed and direction

As where such networks are used, labelled stills are plenty and labelled videos few: the image network learns from
single frames of all training people, everything else from the videos of some of them. Every seed of the study has its
own fold: the test people of five seeds in a row are five sets without overlap, so that the interval over seeds speaks
of other people, too, and not of other starts alone.
"""

import gzip
import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from benchmarks.compression.packages import fetch
from hocp_mm.datasets import crop_faces, face_track, landmark_boxes
from hocp_mm.synthetic import FPS, SyntheticClip
from hocp_mm.synthetic.trajectories import smooth_process
from hocp_mm.system.files import replacing
from hocp_mm.system.parallel import run_tasks

PARTS = ("stills", "train", "validation", "test")
FOLDS = 5
PEOPLE, FRAMES = 240, 64
FACE, DIGIT = 40, 32
"""Sides of a frame in pixels."""
MARGIN = 1.5
WRITER = 140
"""Digits that one writer wrote, rounded up (1797 by 13 writers)."""
SPEEDS = (0.25, 2.75)  # of a digit in pixels per frame, at speed -1 and 1
_DIGIT_NOISE = 0.15  # standard deviation, of a range of 1
_SHIFT = 2  # pixels
VERSION = 1  # raise it when the same numbers give other videos


class Pool(NamedTuple):
    """Videos of one length.

    Attributes:
        frames: Bytes ``[V, F, C, S, S]``, C 3 or 1.
        targets: What each frame is to be told, in [-1, 1], ``[V, F, 2]``.
        labels: Class of each video ``[V]``; -1 without classes.
        people: Number of the person, or of the block of writers, ``[V]``.
    """

    frames: Tensor
    targets: Tensor
    labels: Tensor
    people: Tensor


@dataclass(frozen=True)
class Task:
    """What is to be learnt.

    Attributes:
        title: For the page.
        outputs: Names of the two targets.
        make: Renders the pool, given a cache folder and a number of processes.
        spoil: Changes frames ``[B, C, S, S]`` in [0, 1], each on its own.
        filmed: Training videos; all of these and the others give single frames.
        mirrored: Sign that the targets get when a clip is mirrored.
        classes: Of a video; 0 for none.
    """

    title: str
    outputs: tuple[str, str]
    make: Callable[[Path, int], Pool]
    spoil: Callable[[Tensor, Generator], Tensor]
    filmed: int = 24
    mirrored: tuple[float, float] = (1.0, 1.0)
    classes: int = 0


def load_pool(name: str, cache: Path, workers: int = 1) -> Pool:
    """Return the videos of a task, rendered once into the cache folder."""
    file = cache / f"transduction-{name}-{VERSION}.npz"
    if not file.is_file():
        pool = TASKS[name].make(cache, workers)
        with replacing(file) as draft, draft.open("wb") as out:
            np.savez(out, allow_pickle=False, **{key: value.numpy() for key, value in pool._asdict().items()})
    with np.load(file) as arrays:
        return Pool(*(torch.from_numpy(arrays[key]) for key in Pool._fields))


def split(pool: Pool, seed: int, filmed: int) -> dict[str, Pool]:
    """Return the parts of a seed.

    People are in the order of their numbers, cut into `FOLDS`: one is tested, the next one validates, and the others
    train; the first of the fold after that are those whose videos may be used.

    Args:
        pool: Videos of all.
        seed: The fold that is tested, by its remainder.
        filmed: Training videos.

    Returns:
        Videos by the names of `PARTS`: those to take single frames of; those to take clips of, which are among them;
        and validation and test videos, of other people each.
    """
    people = pool.people.unique()
    fold_of = torch.arange(len(people)) * FOLDS // len(people)
    fold = (fold_of[torch.searchsorted(people, pool.people)] - seed) % FOLDS
    order = torch.argsort(fold, stable=True)  # test, validation, and the others
    chosen = (order[fold[order] > 1], order[fold[order] > 1][:filmed], order[fold[order] == 1], order[fold[order] == 0])
    return {part: Pool(*(column[index] for column in pool)) for part, index in zip(PARTS, chosen, strict=True)}


def draw(pool: Pool, task: Task, clips: int, length: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a batch of training clips: mirrored, shifted and lit as a whole, spoilt frame by frame.

    Args:
        pool: Videos to draw from.
        task: What they are of.
        clips: How many, N.
        length: Frames of each, T.
        generator: All that is random comes from it.

    Returns:
        Normalised clips ``[N, 3, T, S, S]``, targets ``[N, T, 2]`` and labels ``[N]``.
    """
    videos = torch.randint(len(pool.frames), (clips,), generator=generator)
    starts = torch.randint(pool.frames.shape[1] - length + 1, (clips, 1), generator=generator)
    when = starts + torch.arange(length)
    frames, targets = pool.frames[videos[:, None], when].float() / 255, pool.targets[videos[:, None], when].clone()
    mirrored = torch.rand(clips, generator=generator) < 0.5
    frames[mirrored] = frames[mirrored].flip(-1)
    targets[mirrored] *= torch.tensor(task.mirrored)
    side = frames.shape[-1]
    wide = F.pad(frames.flatten(0, 1), (_SHIFT,) * 4, mode="replicate").unflatten(0, (clips, length))
    corners = torch.randint(2 * _SHIFT + 1, (clips, 2), generator=generator).tolist()
    shifted = [clip[..., y : y + side, x : x + side] for clip, (y, x) in zip(wide, corners, strict=True)]
    light = 0.8 + 0.4 * torch.rand(clips, 1, 1, 1, 1, generator=generator)
    frames = torch.stack(shifted) * light
    frames = task.spoil(frames.flatten(0, 1), generator).unflatten(0, (clips, length))
    return normalised(frames), targets, pool.labels[videos]


def shown(pool: Pool, task: Task, index: int) -> Tensor:
    """Return one whole video for a test, ``[1, 3, F, S, S]``; each frame is spoilt in the same way every time."""
    generator = torch.Generator().manual_seed(zlib.crc32(pool.frames[index, 0].numpy().tobytes()))
    return normalised(task.spoil(pool.frames[index].float() / 255, generator)[None])


def normalised(frames: Tensor) -> Tensor:
    """Turn ``[N, T, C, S, S]`` in [0, 1] into what networks take."""
    return ((frames - 0.5) / 0.25).expand(-1, -1, 3, -1, -1).transpose(1, 2).contiguous()


def leave(frames: Tensor, generator: Generator) -> Tensor:
    """Leave frames as they are."""
    return frames


def add_noise(frames: Tensor, generator: Generator) -> Tensor:
    """Add noise to each frame."""
    return (frames + _DIGIT_NOISE * torch.randn(frames.shape, generator=generator)).clamp(0, 1)


def film_badly(frames: Tensor, generator: Generator) -> Tensor:
    """Blur each frame more or less, add more or less noise, and cover part of every other one."""
    count, _, side, _ = frames.shape
    blur = torch.randint(3, (count,), generator=generator)  # widths 1, 3 and 5
    for reach in (1, 2):
        chosen = blur == reach
        padded = F.pad(frames[chosen], (reach,) * 4, mode="replicate")
        frames[chosen] = F.avg_pool2d(padded, 2 * reach + 1, stride=1)
    sizes = side * (0.3 + 0.3 * torch.rand(count, 2, generator=generator))
    sizes *= torch.rand(count, 1, generator=generator) < 0.5
    corners = torch.rand(count, 2, generator=generator) * (side - sizes)
    line = torch.arange(side) + 0.5
    rows, columns = ((line > corners[:, [k]]) & (line < (corners + sizes)[:, [k]]) for k in (0, 1))
    grey = torch.rand(count, 1, 1, 1, generator=generator)
    frames = torch.where((rows[:, :, None] & columns[:, None, :])[:, None], grey, frames)
    strength = 0.25 * torch.rand(count, 1, 1, 1, generator=generator)
    return (frames + strength * torch.randn(frames.shape, generator=generator)).clamp(0, 1)


def render_faces(seed: int, motion_share: float, people: int = PEOPLE, frames: int = FRAMES, workers: int = 1) -> Pool:
    """Render one video of each person, cut out by its landmarks, and its valence and arousal."""
    videos = run_tasks(_render_face, [(seed, n, motion_share, frames) for n in range(people)], workers, None)
    pixels, targets = (torch.from_numpy(np.stack(column)) for column in zip(*videos, strict=True))
    return Pool(pixels, targets, torch.full((people,), -1), torch.arange(people))


def _render_face(
    seed: int, person: int, motion_share: float, frames: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    clip = SyntheticClip(seed, person, 0, frames, motion_share)
    met = [clip[index] for index in range(frames)]
    boxes = landmark_boxes(np.stack([frame.landmarks for frame in met]))
    faces = crop_faces(np.stack([frame.image for frame in met]), face_track(boxes, MARGIN, FPS), FACE)
    affect = np.array([(frame.valence, frame.arousal) for frame in met], np.float32)
    return np.ascontiguousarray(faces.transpose(0, 3, 1, 2)), affect


def read_digits(cache: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scikit-learn's pictures ``[1797, 8, 8]`` in [0, 1] and what they show, ``[1797]``."""
    file = fetch("digits", cache) / "sklearn" / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1].astype(np.int64)


def writer_blocks(count: int, folds: int = FOLDS, gap: int = WRITER) -> list[NDArray[np.int64]]:
    """Cut pictures that are ordered by writer, but do not say by whom, into contiguous blocks.

    The first ``gap`` of each block are left out: whoever began to write in the block before has ended by then.

    Returns:
        Numbers of the pictures of each block.
    """
    edges = np.linspace(0, count, folds + 1).astype(int)
    return [np.arange(low + gap, high) for low, high in itertools.pairwise(edges)]


def move_digits(
    pictures: NDArray[np.float64], labels: NDArray[np.int64], blocks: list[NDArray[np.int64]], frames: int = 48
) -> Pool:
    """Let each picture, doubled in size, move over a ring-shaped plane: what leaves at one side enters at the other.

    Speed and direction change all the time, and neither depends on the other, on the picture, or on the place, which
    is uniform at every speed: nothing of them can be seen in a frame. The second target is the cosine of the
    direction, 1 to the right.

    Args:
        pictures: ``[P, 8, 8]`` in [0, 1].
        labels: What they show, ``[P]``.
        blocks: Numbers of those that move, by writers.
        frames: Length of a video.

    Returns:
        One video of each picture.
    """
    rng = np.random.default_rng(15)
    chosen = np.concatenate(blocks)
    videos, targets = [], []
    for picture in pictures[chosen]:
        speed = np.tanh(0.85 * smooth_process(rng, frames, FPS, 0.5))
        angle = rng.uniform(0, 2 * np.pi) + 2 * smooth_process(rng, frames, FPS, 0.6)
        pixels = SPEEDS[0] + (SPEEDS[1] - SPEEDS[0]) * (speed + 1) / 2
        steps = pixels[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)  # rows, columns
        places = rng.uniform(0, DIGIT, size=2) + np.cumsum(steps, axis=0) - steps / 2
        canvas = np.zeros((DIGIT, DIGIT))
        canvas[:16, :16] = picture.repeat(2, axis=0).repeat(2, axis=1) * rng.uniform(0.6, 1)
        videos.append(_moved(canvas, places))
        targets.append(np.stack([speed, np.cos(angle)], axis=1))
    pixels = torch.from_numpy(np.stack(videos))[:, :, None]
    people = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    return Pool(
        pixels,
        torch.from_numpy(np.stack(targets).astype(np.float32)),
        torch.from_numpy(labels[chosen]),
        torch.from_numpy(people),
    )


def _moved(canvas: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shift a picture on a ring by ``places`` ``[F, 2]`` (down, right), between pixels, too: ``[F, S, S]``."""
    spectrum = np.fft.fft2(canvas)
    down, right = np.fft.fftfreq(canvas.shape[0])[:, None], np.fft.fftfreq(canvas.shape[1])[None]
    phases = np.exp(-2j * np.pi * (places[:, 0, None, None] * down + places[:, 1, None, None] * right))
    return (np.fft.ifft2(spectrum * phases).real.clip(0, 1) * 255).astype(np.uint8)


def _digits(cache: Path, workers: int) -> Pool:
    pictures, labels = read_digits(cache)
    return move_digits(pictures, labels, writer_blocks(len(pictures)))


_AFFECT = ("valence", "arousal")
TASKS = {
    "motion": Task(
        "(a) synthetic faces, motion share 0.6", _AFFECT,
        lambda cache, workers: render_faces(101, 0.6, workers=workers), leave,
    ),
    "noise": Task(
        "(b) synthetic faces, motion share 0, frames filmed badly", _AFFECT,
        lambda cache, workers: render_faces(202, 0.0, workers=workers), film_badly,
    ),
    "digits": Task(
        "(c) moving handwritten digits", ("speed", "direction"), _digits, add_noise, mirrored=(1.0, -1.0), classes=10,
    ),
}  # fmt: skip
