"""A whole set in AffectNet's layout, of either release."""

import csv
import json
import math

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import AffectNetDataset
from hocp_mm.datasets.affectnet.rows import EXPRESSIONS, emonet_rules
from hocp_mm.errors import DataError
from hocp_mm.synthetic import SyntheticAffectNetSpec, SyntheticClip, expression_of, write_synthetic_affectnet

COUNT = 21  # of which the last but one brings a useless picture with it
SPECS = {release: SyntheticAffectNetSpec(release, (2, 1), COUNT, seed=3) for release in ("2017", "2021")}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for release, spec in SPECS.items():
        assert write_synthetic_affectnet(folder / release, spec, workers=1)
    return {release: folder / release for release in SPECS}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def faces(person):
    """Valence and arousal that were drawn for one person's pictures."""
    clip = SyntheticClip(3, person, 0, 1 + (COUNT - 1) * 50, motion_share=0.0)
    return [(clip.affect.valence[n * 50], clip.affect.arousal[n * 50]) for n in range(COUNT)]


@pytest.mark.parametrize("release", SPECS)
@pytest.mark.parametrize(("part", "people"), [("train", (1, 2)), ("val", (3,))])
def test_the_data_set_reads_what_was_drawn(roots, release, part, people):
    dataset = AffectNetDataset(roots[release], part, release=release, faces="inner", verify_images=True)
    records = [dataset[n] for n in range(len(dataset))]
    order = records if release == "2017" else sorted(records, key=lambda record: int(record["video"][:-4]))
    drawn = [pair for person in people for pair in faces(person)]
    np.testing.assert_allclose([record["affect"][0] for record in order], drawn, atol=1e-6)
    assert [record["expression"] for record in order] == [expression_of(*pair) for pair in drawn]


@pytest.mark.parametrize("release", SPECS)
def test_faces_lie_where_boxes_and_landmarks_say(roots, release):
    dataset = AffectNetDataset(roots[release], "val", release=release, faces="inner")
    record = dataset[0]
    height, width = cv2.imread(record["filename"]).shape[:2]
    assert (width, height) == ((320, 240) if release == "2017" else (224, 224))
    x1, y1, x2, y2 = record["boxes"][0]
    assert 0 < x1 < x2 < width
    assert 0 < y1 < y2 < height
    outer = AffectNetDataset(roots[release], "val", release=release, faces="landmarks")[0]["boxes"][0]
    assert outer[0] < x1
    assert outer[2] > x2
    assert outer[3] > y2
    if release == "2017":
        box = AffectNetDataset(roots[release], "val")[0]["boxes"][0]
        assert (box[:2] < outer[:2]).all()
        assert (box[2:] > outer[2:]).all()
        side = max(outer[2] - outer[0], outer[3] - outer[1])
        assert box[2] - box[0] == pytest.approx(1.25 * side, abs=1)


def test_useless_rows_have_the_cells_of_the_release(roots):
    with (roots["2017"] / "Manually_Annotated/training.csv").open() as file:
        rows = list(csv.DictReader(file))
    useless = [row for row in rows if int(row["expression"]) > 7]
    assert len(rows) == 2 * COUNT + len(useless)
    assert [row["expression"] for row in useless] == ["10", "9"]
    for row in useless:
        assert (row["face_width"], row["facial_landmarks"], row["valence"]) == ("-1", "NULL", "-2")
    assert len(AffectNetDataset(roots["2017"])) == 2 * COUNT
    assert {len(row["subDirectory_filePath"].split("/")[1]) for row in rows} == {60}


def test_annotations_of_2021_are_strings_without_dimension(roots):
    folder = roots["2021"] / "train_set/annotations"
    values = {kind: np.load(folder / f"0_{kind}.npy") for kind in ("exp", "val", "aro", "lnd")}
    assert [values[kind].dtype.kind for kind in values] == ["U", "U", "U", "f"]
    assert [values[kind].shape for kind in values] == [(), (), (), (136,)]


def test_the_rule_agrees_with_emonets_but_for_weak_disgust():
    grid = np.linspace(-0.99, 0.99, 66)
    affect = np.array([(v, a) for v in grid for a in grid])
    classes = np.array([expression_of(v, a) for v, a in affect])
    assert set(classes) == set(range(len(EXPRESSIONS)))
    against = ~emonet_rules(classes, affect)
    assert set(classes[against]) <= {EXPRESSIONS.index("disgust")}
    assert all(math.hypot(*pair) <= 0.3 for pair in affect[against])


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    for release in SPECS:
        spec = SyntheticAffectNetSpec(release, (1, 1), 2, seed=1)
        write_synthetic_affectnet(tmp_path / f"{release}one", spec, workers=1)
        write_synthetic_affectnet(tmp_path / f"{release}two", spec, workers=2)
        assert content(tmp_path / f"{release}one") == content(tmp_path / f"{release}two")


def test_nobody_is_in_both_parts_and_nothing_but_the_layout_is_left(roots):
    names = {str(path) for path in content(roots["2017"])}
    assert {name for name in names if not name.endswith(".jpg")} == {
        "synthetic.json",
        "Manually_Annotated/training.csv",
        "Manually_Annotated/validation.csv",
    }
    assert {name.split("/")[2] for name in names if name.endswith(".jpg")} == {"1", "2", "3"}
    with (roots["2017"] / "Manually_Annotated/validation.csv").open() as file:
        assert {row["subDirectory_filePath"].split("/")[0] for row in csv.DictReader(file)} == {"3"}
    manifest = json.loads((roots["2021"] / "synthetic.json").read_text())
    assert (manifest["layout"], manifest["people"]) == ("affectnet-2021", [2, 1])


def test_a_second_run_does_nothing_and_other_numbers_are_refused(roots):
    assert not write_synthetic_affectnet(roots["2021"], SPECS["2021"], workers=1)
    with pytest.raises(DataError, match="made with other numbers"):
        write_synthetic_affectnet(roots["2021"], SyntheticAffectNetSpec("2021", (1, 1), 1), workers=1)


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ({"release": "2019"}, "release must be '2017' or '2021', got '2019'"),
        ({"people": (1, 0)}, r"people must be two counts of 1 or more, got \(1, 0\)"),
        ({"images_per_person": 0}, "images_per_person must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, rule):
    with pytest.raises(ValueError, match=rule):
        SyntheticAffectNetSpec(**numbers)
