"""How a trained network judges one film at other frame rates: ``python -m benchmarks.rates CHECKPOINT SEWA_FOLDER``.

Each test video is written again with frames left out or shown several times, without loss, and predicted with the face
boxes of its landmarks. ``make demo`` leaves both arguments: ``demo_output/video/best_….pth``, ``data/synthetic_sewa``.
"""

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from hocp_mm import compat
from hocp_mm.apis import AffectInferencer, track_faces
from hocp_mm.datasets import FaceTrack, iter_frames, probe_video, read_split_file
from hocp_mm.system.files import write_text

PAGE = Path(__file__).parent / "results" / "rates.md"
RATES = (8.0, 25 / 3, 12.5, 24.0, 30.0, 50.0, 60.0)


def retime(source: Path, target: Path, fps: float) -> NDArray[np.int64]:
    """Write a film at another rate, each frame the nearest of the source.

    Args:
        source: Video of even rate.
        target: Matroska file to write.
        fps: Frames per second.

    Returns:
        Which frame of the source each one shows.
    """
    info, frames = probe_video(source), list(iter_frames(source))
    shown = np.minimum(np.arange(int(len(frames) / info.fps * fps)) * info.fps / fps + 0.5, len(frames) - 1).astype(int)
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, "bgr0"
        for number in shown.tolist():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[number], format="rgb24")))
        container.mux(stream.encode(None))
    return shown


def measure(checkpoint: Path, root: Path, count: int) -> dict[float, NDArray[np.float64]]:
    """Return by rate how far the mean valence and arousal of each film lie from those at its own rate, ``[N, 2]``."""
    compat.apply(training=False)
    inferencer = AffectInferencer(checkpoint, device="cpu")
    shifts: dict[float, list[NDArray[np.float64]]] = {fps: [] for fps in RATES}
    with tempfile.TemporaryDirectory() as place:
        for key in read_split_file(root / "splits" / "test.txt")[:count]:
            source = root / key / f"{key}.avi"
            track = track_faces(source, root / key / f"{key}_Landmarks.zip")
            own = inferencer.predict(source, track).pred.mean(axis=0)
            for fps in RATES:
                target = Path(place) / "film.mkv"
                shown = retime(source, target, fps)
                boxes = None if track.boxes is None else track.boxes[shown]
                again = inferencer.predict(target, FaceTrack(boxes, track.face_found[shown]))
                shifts[fps].append(again.pred.mean(axis=0) - own)
    return {fps: np.array(rows, dtype=np.float64) for fps, rows in shifts.items()}


def page(shifts: dict[float, NDArray[np.float64]]) -> str:
    """Return the page."""
    rows = [
        [
            f"{fps:.4g}",
            *(f"{value:+.3f}" for value in rows.mean(axis=0)),
            *(f"{v:.3f}" for v in np.abs(rows).max(axis=0)),
        ]
        for fps, rows in shifts.items()
    ]
    head = ["frames/s", "valence, mean shift", "arousal, mean shift", "valence, largest", "arousal, largest"]
    count = len(next(iter(shifts.values())))
    lines = [
        "# One film at other frame rates",
        "",
        f"Written by `python -m benchmarks.rates`: {count} unseen people of the demo set, 25 frames per second, shown",
        "again at other rates; how far the mean prediction of a film moves.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--count", type=int, default=8, help="films (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write (default: %(default)s)")
    args = parser.parse_args()
    text = page(measure(args.checkpoint, args.root, args.count))
    write_text(args.out, text)
    print(text)


if __name__ == "__main__":
    main()
