"""Synthetic clips as SEWA stores them, and a whole set of them.

A clip is an Xvid AVI, aligned csv traces, ``metadata.ini`` and zipped landmarks. A set is planned, written in parallel,
and only moved into place when it is complete.
"""

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from hocp_mm.datasets.splits import write_split_files
from hocp_mm.synthetic.clip import FPS, SyntheticClip
from hocp_mm.synthetic.staging import write_staged
from hocp_mm.synthetic.trajectories import MOTION_SHARE, smooth_process
from hocp_mm.system.parallel import Progress, run_tasks
from hocp_mm.system.reading import full_name

Floats = npt.NDArray[np.float64]

_QUANTISER = 3  # mpeg4's scale runs from 1 (best) to 31; 3 leaves no blocks to be seen
_LAMBDA_PER_QUANTISER = 118  # FFmpeg's FF_QP2LAMBDA
_ZIP_TIME = (2020, 1, 1, 0, 0, 0)  # a fixed time, so that equal clips give equal bytes


@dataclass(frozen=True)
class SewaClipName:
    """The parts of a SEWA key, ``<SEG>_C<c>_S<sss>_P<ppp>_VC1_<first6>_<last6>``.

    Attributes:
        segment: SAH, SAL, SVH or SVL: chosen for high or low arousal or valence.
        culture: Number of the culture, from 1.
        conversation: Number of the conversation S.
        person: Number of the person P, 2S - 1 or 2S.
        first: First frame of the segment in the whole recording.
        last: Last frame of the segment in the whole recording.
    """

    segment: str
    culture: int
    conversation: int
    person: int
    first: int
    last: int

    @property
    def key(self) -> str:
        """Name of the clip's folder and beginning of its files' names."""
        place = f"C{self.culture}_S{self.conversation:03d}_P{self.person:03d}"
        return f"{self.segment}_{place}_VC1_{self.first:06d}_{self.last:06d}"


def write_sewa_clip(root: Path, name: SewaClipName, clip: SyntheticClip, rng: np.random.Generator) -> None:
    """Write one clip's folder.

    Args:
        root: Folder of the set.
        name: What the clip is called.
        clip: The clip to render.
        rng: Source of the landmarks' jitter and of the audio raters' deviation.
    """
    folder = root / name.key
    folder.mkdir(parents=True)
    jitter = 0.4 * rng.standard_normal((len(clip), 49, 2))
    texts: list[str] = []

    def images() -> Iterable[npt.NDArray[np.uint8]]:
        for index in range(len(clip)):
            frame = clip[index]
            texts.append(_landmark_text(frame.pose, frame.eyes, frame.landmarks + jitter[index]))
            yield frame.image

    write_xvid(folder / f"{name.key}.avi", images())
    _write_landmarks(folder / f"{name.key}_Landmarks.zip", name.key, texts)
    _write_traces(folder, name.key, clip, rng)
    (folder / "metadata.ini").write_text(_metadata(name), encoding="utf-8")


def write_xvid(path: str | Path, images: Iterable[npt.NDArray[np.uint8]], fps: int = FPS) -> None:
    """Write an AVI as SEWA has them: mpeg4 with the tag XVID and two B-frames between references.

    Equal images give equal bytes under one build of FFmpeg.

    Args:
        path: File to write.
        images: RGB frames ``[H, W, 3]``, all of one size, H and W even.
        fps: Frames per second.

    Raises:
        ValueError: If there are no images.
    """
    with av.open(full_name(path), "w", format="avi", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.codec_context.codec_tag = "XVID"
        stream.codec_context.pix_fmt = "yuv420p"
        # Several threads would cut frames into slices, and their number would change the bytes.
        stream.codec_context.thread_count = 1
        quality = str(_QUANTISER * _LAMBDA_PER_QUANTISER)
        stream.codec_context.options = {"bf": "2", "g": "50", "flags": "+qscale+bitexact", "global_quality": quality}
        count = 0
        for image in images:
            if count == 0:
                stream.codec_context.height, stream.codec_context.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, fps)
            container.mux(stream.encode(frame))
            count += 1
        if count == 0:
            raise ValueError(f"write_xvid: a video needs at least one image, got none ({path}).")
        container.mux(stream.encode(None))


def _write_traces(folder: Path, key: str, clip: SyntheticClip, rng: np.random.Generator) -> None:
    """Write three csv files per dimension; V and AV are the truth, A (raters who only listened) deviates from it."""
    for dimension, trace in (("Valence", clip.affect.valence), ("Arousal", clip.affect.arousal)):
        heard = np.clip(trace + 0.1 * smooth_process(rng, len(clip), FPS, 0.6), -1, 1)
        for raters, values in (("A", heard), ("V", trace), ("AV", trace)):
            rows = "".join(f"{frame},{value:.6f}\n" for frame, value in enumerate(values))
            file = folder / f"{key}_{dimension}_{raters}_Aligned.csv"
            file.write_text(f"frame,{dimension.lower()}\n{rows}", encoding="utf-8", newline="\n")


def _write_landmarks(path: Path, key: str, texts: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for frame, text in enumerate(texts):
            entry = zipfile.ZipInfo(f"{key}_{frame:05d}.txt", date_time=_ZIP_TIME)
            archive.writestr(entry, text, compress_type=zipfile.ZIP_DEFLATED)


def _landmark_text(pose: tuple[float, float, float], eyes: Floats, points: Floats) -> str:
    """Return three lines: pitch, yaw and roll in degrees; both eyes; 49 points; pixels as ``x y``."""
    return "".join(" ".join(f"{value:.2f}" for value in np.ravel(line)) + "\n" for line in (pose, eyes, points))


def _metadata(name: SewaClipName) -> str:
    lines = [
        "[Segment]",
        f"Conversation={name.conversation}",
        f"Subject={name.person}",
        f"Category={name.segment}",
        f"FirstFrame={name.first}",
        f"LastFrame={name.last}",
        f"FrameRate={FPS}",
        "",
        "[Demographics]",
        f"Culture=C{name.culture}",
        "",
        "[Files]",
        f"Video={name.key}.avi",
        f"Landmarks={name.key}_Landmarks.zip",
        "",
        "[Origin]",
        "Synthetic=1",
    ]
    return "\n".join(lines) + "\n"


_VERSION = 2  # raise it when the same numbers give other clips, so that old sets are not taken for new ones
_PARTS = ("train", "val", "test")
_LABEL_NOISE = 100  # marks the writer's own random numbers; the clip uses smaller marks
_PAUSE = 1000  # frames between two segments of one recording, at most


@dataclass(frozen=True)
class SyntheticSewaSpec:
    """The numbers that define a synthetic set.

    Attributes:
        subjects: People in train, val and test. Partners of one conversation are always in one part.
        clips_per_subject: Clips of each person.
        frames: Frames of each clip.
        seed: Seed of everything.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].
    """

    subjects: tuple[int, int, int] = (24, 4, 8)
    clips_per_subject: int = 1
    frames: int = 150
    seed: int = 0
    motion_share: float = MOTION_SHARE

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If a number is out of range.
        """
        where = "SyntheticSewaSpec"
        if len(self.subjects) != len(_PARTS) or min(self.subjects) < 0 or sum(self.subjects) == 0:
            raise ValueError(f"{where}: subjects must be three counts, not all 0, got {self.subjects}.")
        if sum(self.subjects) > 990:
            raise ValueError(f"{where}: SEWA's names have three digits for a person, got {sum(self.subjects)} people.")
        for what, value, low in (
            ("clips", self.clips_per_subject, 1),
            ("frames", self.frames, 2),
            ("seed", self.seed, 0),
        ):
            if value < low:
                raise ValueError(f"{where}: {what} must be at least {low}, got {value}.")
        if self.clips_per_subject * (self.frames + _PAUSE) > 999_999:
            raise ValueError(f"{where}: a person's recording must stay below a million frames; fewer clips or frames.")
        if not 0 <= self.motion_share <= 1:
            raise ValueError(f"{where}: motion_share must lie in [0, 1], got {self.motion_share}.")


def write_synthetic_sewa(
    root: str | Path,
    subjects: Sequence[int] = (24, 4, 8),
    clips_per_subject: int = 1,
    frames: int = 150,
    seed: int = 0,
    motion_share: float = MOTION_SHARE,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a synthetic set in SEWA's layout, or do nothing if it is already there.

    ``root`` receives one folder per clip, ``splits/{train,val,test}.txt`` and ``synthetic.json``. The set is
    written beside ``root`` and moved into place when it is complete; its bytes depend on the numbers alone, not on
    ``workers``. Call it under ``if __name__ == "__main__":`` where ``workers`` is not 1, as processes are started.

    Args:
        root: Folder of the set.
        subjects: People in train, val and test.
        clips_per_subject: Clips of each person.
        frames: Frames of each clip, at 25 per second.
        seed: Seed of everything.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].
        workers: Processes; ``None`` = one per CPU core, 1 = this process.
        progress: Called with the number of finished clips and of all clips.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; ``False`` = it was already there with the same numbers.

    Raises:
        DataError: If ``root`` holds something else.
        ValueError: If a number is out of range.
    """
    train, val, test = subjects
    spec = SyntheticSewaSpec((train, val, test), clips_per_subject, frames, seed, motion_share)
    people = _people(spec)
    tasks = [(person, clip) for part in people.values() for person in part for clip in range(spec.clips_per_subject)]

    def write(draft: Path) -> None:
        keys = run_tasks(_write_clip, [(draft, spec, *task) for task in tasks], workers, progress)
        by_part = {
            part: sorted(key for key, (person, _) in zip(keys, tasks, strict=True) if person in numbers)
            for part, numbers in people.items()
        }
        write_split_files(draft / "splits", by_part, spec.seed)

    manifest = json.dumps({"layout": "sewa", "version": _VERSION, **asdict(spec)}, indent=2) + "\n"
    return write_staged(Path(root), manifest, write, overwrite)


def _people(spec: SyntheticSewaSpec) -> dict[str, range]:
    """Number the people so that each part starts with a new conversation (an odd number)."""
    parts, first = {}, 1
    for part, count in zip(_PARTS, spec.subjects, strict=True):
        parts[part] = range(first, first + count)
        first += count + count % 2
    return parts


def _write_clip(root: Path, spec: SyntheticSewaSpec, person: int, number: int) -> str:
    """Render and write one clip; returns its key."""
    clip = SyntheticClip(spec.seed, person, number, spec.frames, spec.motion_share)
    rng = np.random.default_rng([spec.seed, _LABEL_NOISE, person, number])
    means = {"A": clip.affect.arousal.mean(), "V": clip.affect.valence.mean()}
    dimension = max(means, key=lambda name: abs(means[name]))
    conversation = (person + 1) // 2
    first = number * (spec.frames + _PAUSE) + int(rng.integers(_PAUSE))
    name = SewaClipName(
        segment=f"S{dimension}{'H' if means[dimension] > 0 else 'L'}",
        culture=1 + (conversation - 1) % 6,
        conversation=conversation,
        person=person,
        first=first,
        last=first + spec.frames - 1,
    )
    write_sewa_clip(root, name, clip, rng)
    return name.key
