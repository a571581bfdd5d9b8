"""Does a video network that learns without labels beat its teacher? ``python -m benchmarks.teaching CHECKPOINT``.

The teacher is the image network of ``make demo`` (``demo_output/static/best_….pth``). Synthetic people whom it has not
seen are filmed badly: some frames, or all of them, are blurred and noisy, as no picture of its training was. It labels
the videos of some people (``tools/label_videos.py``), a video network learns from these labels
(``configs/hocp_distill_demo.py``; the last epoch, as no label may choose a better one), and both are scored on the
others, against the truth. Where all frames are bad (``--films all``) labels have the teacher's bias, and there is
nothing in them that it does not know.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.markdown import table
from hocp_mm import compat
from hocp_mm.apis import AffectInferencer, Teacher
from hocp_mm.datasets import (
    crop_faces,
    face_track,
    iter_frames,
    landmark_boxes,
    read_affect_csv,
    read_landmarks_zip,
    read_split_file,
)
from hocp_mm.functional import ccc
from hocp_mm.synthetic import write_synthetic_sewa
from hocp_mm.synthetic.sewa import write_xvid
from hocp_mm.system.files import write_text
from hocp_mm.system.parallel import launched

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "benchmarks" / "results" / "teaching.md"
PEOPLE, FRAMES = (48, 2, 16), 120  # people in training, validation and test
SEED = 1  # another than that of the teacher's people
SIDE, MARGIN = 64, 1.5
Predict = Callable[[Path], NDArray[np.float32]]


class Film(NamedTuple):
    """How people are filmed.

    Attributes:
        bad: Share of the frames that are bad.
        blur: Standard deviation of the blur of a bad frame, pixels, drawn for each anew.
        noise: Standard deviation of its noise, grey values, drawn for each anew.
    """

    bad: float
    blur: tuple[float, float]
    noise: tuple[float, float]

    def __str__(self) -> str:
        """Return it in words."""
        which = "all frames are bad" if self.bad == 1 else f"{100 * self.bad:.0f} % of the frames are bad"
        low, high = self.blur
        return f"{which}: blur of {low:g} to {high:g} pixels, noise of {self.noise[0]:g} to {self.noise[1]:g}"


FILMS = {"some": Film(0.4, (1, 3), (30, 80)), "all": Film(1, (0, 2.5), (10, 60))}
GOOD = (0.3, 6.0)  # blur and noise of the other frames


def spoil(faces: NDArray[np.uint8], film: Film, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Blur each frame ``[S, S, 3]``, and add noise."""
    for face in faces:
        blur, noise = (rng.uniform(*film.blur), rng.uniform(*film.noise)) if rng.uniform() < film.bad else GOOD
        blurred = cv2.GaussianBlur(face, (0, 0), max(1e-3, blur))
        yield np.clip(blurred + rng.normal(0, noise, face.shape), 0, 255).astype(np.uint8)


def make_data(clean: Path, root: Path, film: Film) -> None:
    """Write ``people`` (SEWA's layout, badly filmed faces) and ``videos`` (those of training, without labels)."""
    people, videos = root / "people", root / "videos"
    shutil.copytree(clean / "splits", people / "splits")
    for part in ("train", "val", "test"):
        for number, key in enumerate(read_split_file(clean / "splits" / f"{part}.txt")):
            source, target = clean / key, people / key / f"{key}.avi"
            frames = np.stack(list(iter_frames(source / f"{key}.avi")))
            boxes = landmark_boxes(read_landmarks_zip(source / f"{key}_Landmarks.zip", len(frames)))
            faces = crop_faces(frames, face_track(boxes, MARGIN, 25), SIDE)
            target.parent.mkdir()
            write_xvid(target, spoil(faces, film, np.random.default_rng([SEED, len(part), number])))
            for file in source.glob("*_V_Aligned.csv"):
                shutil.copy(file, target.parent)
            if part == "train":
                videos.mkdir(exist_ok=True)
                shutil.copy(target, videos)


def call(*words: object) -> None:
    """Run a tool of this repository, and show what it says."""
    command = [sys.executable, *map(str, words)]
    subprocess.run(command, cwd=ROOT, env=launched(), check=True)


def score(predict: Predict, people: Path) -> list[float]:
    """Return CCC of valence and arousal over all frames of the test people, and the mean of both."""
    pred, truth = [], []
    for key in read_split_file(people / "splits" / "test.txt"):
        pred.append(predict(people / key / f"{key}.avi"))
        files = [(people / key / f"{key}_{name}_V_Aligned.csv", name.lower()) for name in ("Valence", "Arousal")]
        truth.append(np.stack([read_affect_csv(file, name)[0] for file, name in files], axis=1))
    both = ccc(torch.from_numpy(np.concatenate(pred)).double(), torch.from_numpy(np.concatenate(truth)).double())
    return [*both.tolist(), float(both.mean())]


def measure(checkpoint: Path, root: Path) -> dict[str, list[float]]:
    """Teach, and return the scores of each network."""
    people, labels, student = root / "people", root / "labels", root / "student"
    teacher = Teacher(checkpoint, device="cpu")
    rows = {
        "teacher": score(lambda video: teacher.inferencer.predict(video, "frame").pred, people),
        "its labels (both views, smoothed)": score(lambda video: teacher.label(video, "frame").affect, people),
    }
    call("tools/label_videos.py", root / "videos", "--checkpoint", checkpoint, "--out", labels, "--faces", "frame",
         "--device", "cpu")  # fmt: skip
    places = [f"{part}_dataloader.dataset.data_root={people}" for part in ("val", "test")]
    places += [f"train_dataloader.dataset.data_root={root / 'videos'}"]
    places += [f"train_dataloader.dataset.labels_root={labels}"]
    call("tools/train.py", "configs/hocp_distill_demo.py", "--static-checkpoint", checkpoint, "--no-validate",
         "--work-dir", student, "--cfg-options", *places)  # fmt: skip
    taught = AffectInferencer((student / "last_checkpoint").read_text(encoding="utf-8"), device="cpu")
    rows["student"] = score(lambda video: taught.predict(video, "frame").pred, people)
    return rows


def page(scores: dict[str, dict[str, list[float]]]) -> str:
    """Return the page, of scores by film and network."""
    lines = [
        "# A student without labels, and its teacher",
        "",
        f"Written by `python -m benchmarks.teaching`: the image network of `make demo` labels {PEOPLE[0]} badly filmed",
        f"videos (faces of {SIDE} pixels), and a video network learns from the labels. CCC on {PEOPLE[2]} other",
        "people, filmed alike. No label of a person was used after the teacher's training.",
    ]
    for name, rows in scores.items():
        cells = [[network, *(f"{value:.3f}" for value in values)] for network, values in rows.items()]
        lines += ["", f"{str(FILMS[name]).capitalize()}.", "", *table(["", "valence", "arousal", "mean"], cells)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="weights of the teacher")
    parser.add_argument("--films", nargs="+", choices=FILMS, default=["some"], help="which frames are bad")
    parser.add_argument("--work", type=Path, default=ROOT / "data/synthetic_teaching", help="folder, made anew")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write (default: %(default)s)")
    args = parser.parse_args()
    compat.apply(training=False)
    root, scores = args.work.resolve(), {}
    write_synthetic_sewa(root / "clean", PEOPLE, frames=FRAMES, seed=SEED, motion_share=0.0, workers=1)
    for name in args.films:
        shutil.rmtree(root / name, ignore_errors=True)
        make_data(root / "clean", root / name, FILMS[name])
        scores[name] = measure(args.checkpoint.resolve(), root / name)
        print(page(scores), flush=True)
    write_text(args.out, page(scores))


if __name__ == "__main__":
    main()
