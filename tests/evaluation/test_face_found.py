"""Where a face was found comes out of an evaluation as it went into the data set, and as a demo would say it."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.evaluator import Evaluator

from hocp_mm.apis import track_faces
from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.transforms import LoadFaceClip, PackAffectInputs, SampleClip
from hocp_mm.evaluation import AffectMetric
from hocp_mm.structures import AffectTimeline
from tests.material.sewa_files import KEYS, square_landmarks, write_landmarks_zip, write_sewa

COUNT, CLIP = 20, 8
MISSING = [0, 3, 9, 10, 19]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One segment; the tracker lost the face in a few frames, at the ends too."""
    folder = tmp_path / "SEWAv02"
    write_sewa(folder, KEYS[:1], COUNT)
    points = {frame: square_landmarks() for frame in range(COUNT) if frame not in MISSING}
    write_landmarks_zip(folder / KEYS[0] / f"{KEYS[0]}_Landmarks.zip", COUNT, points)
    return folder


@pytest.mark.parametrize("stride", [3, 8])
def test_records_csv_and_demo_agree_about_every_frame(root: Path, tmp_path: Path, stride: int):
    steps = [SampleClip(CLIP, mode="window"), LoadFaceClip(size=16), PackAffectInputs()]
    dataset = SEWADataset(root, pipeline=steps, windows={"clip_len": CLIP, "stride": stride}, test_mode=True)
    evaluator = Evaluator(AffectMetric(out_dir=tmp_path / "out"))
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        evaluator.process(data_samples=[sample.set_pred(sample.gt_affect)])
    evaluator.evaluate(len(dataset))
    timeline = AffectTimeline.from_csv(tmp_path / "out" / f"{KEYS[0]}.csv")
    assert timeline.face_found is not None
    assert np.flatnonzero(~timeline.face_found).tolist() == MISSING
    folder = root / KEYS[0]
    demo = track_faces(folder / f"{KEYS[0]}.avi", folder / f"{KEYS[0]}_Landmarks.zip")
    assert demo.face_found.tolist() == timeline.face_found.tolist()
