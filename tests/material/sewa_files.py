"""Tiny SEWA folders whose frames carry their number and whose labels repeat it.

A picture shows its frame number as 12 black or white blocks in the central square, and the landmarks span
just that square, so any crop of the pipeline can be asked which frame it is.
"""

import random
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.splits import write_split_files

WIDTH, HEIGHT = 320, 240
SQUARE = ((WIDTH - HEIGHT) // 2, 0, (WIDTH + HEIGHT) // 2, HEIGHT)
ROWS, COLUMNS = 3, 4  # of blocks; 12 bits count to 4095
KEYS = ("SAH_C1_S001_P001_VC1_000100_000139", "SVL_C2_S002_P003_VC1_000000_000039")


def draw_number(number: int) -> NDArray[np.uint8]:
    """Return the picture of a frame, ``[240, 320, 3]``."""
    picture = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)
    block_h, block_w = HEIGHT // ROWS, HEIGHT // COLUMNS
    for bit in range(ROWS * COLUMNS):
        top, left = bit // COLUMNS * block_h, SQUARE[0] + bit % COLUMNS * block_w
        picture[top : top + block_h, left : left + block_w] = 255 if number >> bit & 1 else 0
    return picture


def read_number(picture: NDArray[np.uint8]) -> int:
    """Return the number that a frame, or the crop of its central square, shows."""
    height, width = picture.shape[:2]
    left = (width - height) // 2
    number = 0
    for bit in range(ROWS * COLUMNS):
        y = int((bit // COLUMNS + 0.5) * height / ROWS)
        x = left + int((bit % COLUMNS + 0.5) * height / COLUMNS)
        number |= int(picture[y - 1 : y + 2, x - 1 : x + 2].mean() > 127) << bit
    return number


def write_numbered_avi(path: Path, numbers: Iterable[int], b_frames: int = 2) -> Path:
    """Write an Xvid AVI (MPEG-4 with tag XVID, 25 fps) with one frame per number, B-frames as SEWA may have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 1_000_000
        stream.codec_context.codec_tag = "XVID"
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.gop_size = 50
        for index, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(draw_number(number), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_affect_csv(path: Path, name: str, values: Sequence[float]) -> Path:
    """Write ``frame,<name>`` rows numbered from 0."""
    rows = [f"frame,{name}", *(f"{frame},{value}" for frame, value in enumerate(values))]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def square_landmarks(box: Sequence[float] = SQUARE) -> NDArray[np.float64]:
    """Return 49 points with just this bounding box, ``[49, 2]``."""
    inner = np.random.default_rng(0).uniform(0.2, 0.8, (49, 2))
    inner[:2] = [[0, 0], [1, 1]]
    return np.array(box[:2]) + inner * (np.array(box[2:]) - np.array(box[:2]))


def write_landmarks_zip(path: Path, num_frames: int, points: Mapping[int, NDArray[np.float64] | None]) -> Path:
    """Write one text file per frame: head pose, eyes, 49 points; None writes an empty file."""
    with zipfile.ZipFile(path, "w") as archive:
        for frame in range(num_frames):
            if frame not in points:
                continue
            face = points[frame]
            text = "" if face is None else f"0.1 0.2 0.3\n1 2 3 4\n{' '.join(f'{x:.3f}' for x in face.ravel())}\n"
            archive.writestr(f"{path.stem.removesuffix('_Landmarks')}_{frame:05d}.txt", text)
    return path


def valence_of(number: int) -> float:
    """Return the label that belongs to a frame: a fraction that integers would lose."""
    return round(number / 1000 - 0.5, 3)


def arousal_of(number: int) -> float:
    """Return the other label; never equal to the first."""
    return round(0.37 - number / 500, 3)


def write_segment(root: Path, key: str, num_frames: int = 40, first_number: int = 0) -> Path:
    """Write the folder of one segment and return it."""
    folder = root / key
    numbers = range(first_number, first_number + num_frames)
    write_numbered_avi(folder / f"{key}.avi", numbers)
    write_affect_csv(folder / f"{key}_Valence_V_Aligned.csv", "valence", [valence_of(n) for n in numbers])
    write_affect_csv(folder / f"{key}_Arousal_V_Aligned.csv", "arousal", [arousal_of(n) for n in numbers])
    write_landmarks_zip(
        folder / f"{key}_Landmarks.zip", num_frames, {frame: square_landmarks() for frame in range(num_frames)}
    )
    return folder


def write_sewa(root: Path, keys: Sequence[str] = KEYS, num_frames: int = 40) -> Path:
    """Write a set with one part, ``train``, and return its root."""
    for index, key in enumerate(keys):
        write_segment(root, key, num_frames, first_number=index * num_frames)
    write_split_files(root / "splits", {"train": list(keys)}, seed=0)
    return root


def random_index_sets(num_frames: int, count: int, seed: int = 0) -> list[list[int]]:
    """Return index sets as clips use them: runs, strides, unsorted and repeated."""
    rng = random.Random(seed)
    sets = []
    for _ in range(count):
        start, step = rng.randrange(num_frames), rng.choice((1, 2, 3, 7))
        run = list(range(start, num_frames, step))[:8]
        sets += [run, rng.choices(range(num_frames), k=6)]
    return sets
