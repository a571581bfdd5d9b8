"""A whole synthetic set in Aff-Wild2's layout."""

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import AffWild2Dataset
from hocp_mm.errors import DataError
from hocp_mm.synthetic import SyntheticClip
from hocp_mm.synthetic.affwild2 import CROPS, SyntheticAffWild2Spec, write_synthetic_affwild2

SPEC = SyntheticAffWild2Spec(videos=(4, 2), frames=12, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "affwild2"
    assert write_synthetic_affwild2(folder, SPEC)
    return folder


def _content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_data_set_reads_both_parts(root):
    train = AffWild2Dataset(str(root), images=CROPS)
    names = [train.get_data_info(index)["video"] for index in range(len(train))]
    assert names == ["1-30-320x240", "2-30-320x240", "3-30-320x240", "4-30-320x240_left", "4-30-320x240_right"]
    assert len(AffWild2Dataset(str(root), "val", images=CROPS)) == 2
    assert len(list((root / CROPS[1]).iterdir())) == 2  # videos 3 and 6


def test_labels_are_those_of_the_clip_and_have_marks_and_holes(root):
    record = AffWild2Dataset(str(root), images=CROPS)[1]
    clip = SyntheticClip(3, 2, 0, 12)
    shown = record["valid"]
    np.testing.assert_allclose(record["affect"][shown, 0], clip.affect.valence[shown], atol=1e-6)
    np.testing.assert_allclose(record["affect"][shown, 1], clip.affect.arousal[shown], atol=1e-6)
    assert 0 < (~record["face_found"]).sum() < 12
    assert 0 < (~shown).sum() < 12


def test_crops_are_faces_of_112_pixels(root):
    record = AffWild2Dataset(str(root), images=CROPS)[0]
    frame = int(np.argmax(record["face_found"]))
    picture = cv2.imread(record["frame_files"][frame])
    assert picture.shape == (112, 112, 3)
    assert picture.std() > 10


def test_the_same_numbers_give_the_same_bytes_in_any_number_of_processes(root, tmp_path):
    done = []
    write_synthetic_affwild2(
        tmp_path / "again", SPEC, workers=2, progress=lambda count, total: done.append((count, total))
    )
    assert _content(tmp_path / "again") == _content(root)
    assert done == [(count, 7) for count in range(1, 8)]


def test_a_set_is_written_once_and_other_content_is_never_replaced(root, tmp_path):
    assert not write_synthetic_affwild2(root, SPEC)
    other = SyntheticAffWild2Spec(videos=(1, 1), frames=2)
    with pytest.raises(DataError, match="holds a synthetic set made with other numbers"):
        write_synthetic_affwild2(root, other)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="a synthetic set goes to a new or empty folder, got one with other content"):
        write_synthetic_affwild2(tmp_path, other, overwrite=True)
    assert write_synthetic_affwild2(tmp_path / "set", other)
    assert write_synthetic_affwild2(tmp_path / "set", SyntheticAffWild2Spec((1, 1), 3), overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "numbers", [{"videos": (0, 1)}, {"videos": (1,)}, {"frames": 1}, {"seed": -1}, {"motion_share": 1.1}]
)
def test_numbers_are_checked(numbers):
    with pytest.raises(ValueError, match=r"SyntheticAffWild2Spec: (videos must be two counts|frames must lie in)"):
        SyntheticAffWild2Spec(**numbers)
