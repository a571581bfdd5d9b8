"""A tiny Aff-Wild2: numbered crops that count from one, and label lines that tell their frame."""

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2

from tests.material.sewa_files import SQUARE, arousal_of, draw_number, valence_of

TRACK = "6th ABAW Annotations/VA_Estimation_Challenge"


def label_lines(count: int, marked: Collection[int] = (), first_number: int = 0) -> str:
    """Return the bytes of a label file; ``marked`` frames (zero-based) are to be disregarded."""
    numbers = range(first_number, first_number + count)
    rows = [
        "-5,-5" if frame in marked else f"{valence_of(number)},{arousal_of(number)}"
        for frame, number in enumerate(numbers)
    ]
    return "\n".join(["valence,arousal", *rows]) + "\n"


def write_crops(folder: Path, frames: Sequence[int], first_number: int = 0) -> Path:
    """Write the crops of some frames (zero-based); picture 00001 shows the first frame."""
    folder.mkdir(parents=True)
    x1, y1, x2, y2 = SQUARE
    for frame in frames:
        square = draw_number(first_number + frame)[y1:y2, x1:x2]
        crop = cv2.resize(square, (112, 112), interpolation=cv2.INTER_AREA)
        if not cv2.imwrite(str(folder / f"{frame + 1:05d}.jpg"), crop[:, :, ::-1]):
            raise OSError(f"{folder}: cannot write a JPEG.")
    return folder


def write_affwild2(root: Path) -> Path:
    """Write two training videos (one with two people) and one for validation, and return the root."""
    train, val = root / TRACK / "Train_Set", root / TRACK / "Validation_Set"
    for folder in (train, val):
        folder.mkdir(parents=True)
    (train / "1-30-1280x720.txt").write_text(label_lines(20, marked=(3, 4)))
    write_crops(root / "cropped_aligned/1-30-1280x720", [n for n in range(20) if n not in (0, 7)])
    (train / "video5_left.txt").write_text(label_lines(12, first_number=100))
    (train / "video5_right.txt").write_text(label_lines(12, first_number=200))
    write_crops(root / "cropped_aligned/video5_left", range(12), first_number=100)
    write_crops(root / "cropped_aligned/video5_right", range(12), first_number=200)
    (val / "9-15-1920x1080.txt").write_text(label_lines(10, first_number=300))
    write_crops(root / "cropped_aligned_new_50_vids/9-15-1920x1080", range(10), first_number=300)
    return root
