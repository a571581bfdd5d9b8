"""The self-check of a file: random access gives the same pictures as reading from start to end."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hocp_mm.datasets.media.seek import seek_table
from hocp_mm.datasets.media.video import Decoder, iter_frames, probe_video, read_frames
from hocp_mm.errors import DataError


@dataclass(frozen=True)
class AccessReport:
    """What `check_random_access` found.

    Attributes:
        num_frames: Frames of the file, all of which were decoded.
        checked: Numbers of the frames that were asked for one by one.
        differing: Those of them that came back as another picture.
        fault: Why the decoder cannot read the file at all, empty if it can.
        jumps: Whether clips may be read by jumps to key frames.
        refusal: Why not, empty if they may.
    """

    num_frames: int
    checked: tuple[int, ...]
    differing: tuple[int, ...]
    fault: str
    jumps: bool
    refusal: str

    @property
    def exact(self) -> bool:
        """Whether every frame that was asked for is the one that sequential reading gives."""
        return not self.differing and not self.fault


def check_random_access(path: str | Path, sample: int = 16, decoder: Decoder = "auto", seed: int = 0) -> AccessReport:
    """Read a video from start to end, then ask for a sample of its frames in scattered order, and compare.

    Args:
        path: Video file.
        sample: Frames to ask for, spread over the file with the first and the last among them.
        decoder: What reads them, as in `read_frames`; ``"auto"`` is what training uses. Here it jumps at once
            where it may, whatever was read before.
        seed: Seed of the sample and of its order.

    Returns:
        The account of the file. For ``"decord"`` all pictures are compared by its own sequential reading, as its
        colours are rounded in another way.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is no video, is damaged, or holds another number of frames than it was counted.
        ValueError: If ``sample`` is below 1.
    """
    if sample < 1:
        raise ValueError(f"check_random_access: sample must be 1 or more, got {sample}.")
    count = probe_video(path).num_frames
    rng = np.random.default_rng(seed)
    inner = rng.choice(count, size=min(sample, count), replace=False)
    # The ends are where decoders go wrong: they take the place of two random frames.
    chosen = set(inner.tolist()[: max(0, sample - 2)]) | ({0, count - 1} if sample > 1 else set(inner.tolist()))
    sums = {}
    decoded = 0
    for index, picture in enumerate(iter_frames(path)):
        decoded += 1
        if index in chosen:
            sums[index] = zlib.crc32(picture.data)
    if decoded != count:
        raise DataError(f"{path}: was counted as {count} frames, but {decoded} can be decoded.")
    table = seek_table(path)
    order = rng.permutation(sorted(chosen)).tolist()
    differing: tuple[int, ...] = ()
    fault = ""
    try:
        if decoder == "decord":
            read_frames(path, order, decoder)  # its own check compares every frame
        else:
            by_jumps = decoder == "seek" or (decoder == "auto" and not table.refusal)
            differing = _differing(path, order, sums, "seek" if by_jumps else "pyav")
    except DataError as error:
        fault = str(error)
    return AccessReport(count, tuple(order), differing, fault, not table.refusal, table.refusal)


def _differing(path: str | Path, order: list[int], sums: dict[int, int], decoder: Decoder) -> tuple[int, ...]:
    """Return the frames that random access gets wrong; one call each where that is cheap, else one for all."""
    if decoder == "seek":
        pictures = (read_frames(path, [index], decoder)[0] for index in order)
    else:
        pictures = iter(read_frames(path, order, decoder))
    return tuple(
        sorted(index for index, picture in zip(order, pictures, strict=True) if zlib.crc32(picture.data) != sums[index])
    )
