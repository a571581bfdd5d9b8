"""Valence and arousal of a video: ``python tools/demo.py VIDEO --checkpoint FILE --out FOLDER``.

Writes ``<video>.csv`` (one row per frame), ``<video>_timeline.png`` and ``<video>_overlay.mp4``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from hocp_mm.errors import HOCPError
from hocp_mm.system.cli import ProgressLine, positive, run
from hocp_mm.system.files import require_writable


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("video", type=Path, help="video file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights saved by tools/train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the three files")
    parser.add_argument(
        "--config", type=Path, help="config of the network; the one recorded in the checkpoint by default"
    )
    face = parser.add_mutually_exclusive_group()
    face.add_argument(
        "--faces",
        choices=["auto", "centerface", "yunet", "haar", "cascade", "frame"],
        default="auto",
        help="detector that finds the face (auto: the best that is installed), or take the whole frame for it",
    )
    face.add_argument(
        "--box", type=_box, metavar="X,Y,W,H", help="where the face is: pixels, tight around brows, eyes and mouth"
    )
    face.add_argument("--landmarks", type=Path, metavar="ZIP", help="landmarks of every frame, as in SEWA")
    parser.add_argument(
        "--detector-model", type=Path, metavar="FILE", help="file of the detector, such as yunet's onnx file"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FOLDER", help="folder with <video>_Valence_…csv, to draw against"
    )
    parser.add_argument("--stride", type=positive, help="frames from one window to the next; the config's by default")
    parser.add_argument("--batch-size", type=positive, default=8, help="windows per forward pass")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    parser.add_argument("--device", help="such as cpu or cuda:0; CUDA by default where there is one")
    parser.add_argument("--no-video", action="store_true", help="write no annotated video")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Predict, then write and name the files."""
    args = parse_args(argv)
    require_writable(args.out, "--out")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm import compat

    compat.apply()
    from hocp_mm.apis import AffectInferencer, track_faces, with_ground_truth
    from hocp_mm.datasets import iter_frames, probe_video
    from hocp_mm.visualization import plot_timeline, write_overlay

    progress = ProgressLine("", "frames").stage
    info = probe_video(args.video)
    inferencer = AffectInferencer(args.checkpoint, args.config, args.device)
    if args.stride and args.stride > inferencer.rule.clip_len:
        raise HOCPError(f"--stride: must not exceed the clip length {inferencer.rule.clip_len}, got {args.stride}.")
    faces = args.box or args.landmarks or args.faces
    track = track_faces(args.video, faces, progress=progress, model=args.detector_model)
    timeline = inferencer.predict(args.video, track, args.stride, args.batch_size, args.flip, progress)
    if args.labels:
        timeline = with_ground_truth(timeline, args.labels, inferencer.cfg)

    stem = args.out / args.video.stem
    written = [timeline.to_csv(stem.with_name(f"{stem.name}.csv"))]
    written.append(plot_timeline(timeline, stem.with_name(f"{stem.name}_timeline.png")))
    if not args.no_video:
        frames = _counted(iter_frames(args.video), info.num_frames, progress)
        written.append(write_overlay(frames, timeline, track.boxes, stem.with_name(f"{stem.name}_overlay.mp4")))
    print(*written, sep="\n")


def _counted(frames, total: int, progress: Callable[[str, int, int], None]):
    for done, frame in enumerate(frames, start=1):
        yield frame
        progress("writing video", done, total)


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be four numbers x,y,w,h, got {text!r}") from None
    return x, y, width, height


if __name__ == "__main__":
    run(main)
