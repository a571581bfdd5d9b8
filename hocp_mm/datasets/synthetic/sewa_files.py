"""Write one synthetic clip as SEWA stores it: Xvid AVI, aligned csv traces, ``metadata.ini`` and zipped landmarks."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from hocp_mm.datasets.synthetic.clip import FPS, SyntheticClip
from hocp_mm.datasets.synthetic.trajectories import smooth_process

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
    with av.open(str(path), "w", format="avi", container_options={"fflags": "+bitexact"}) as container:
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
