"""The marks on a picture: boxes, and the panel with its dot."""

import cv2
import numpy as np
import pytest

from hocp_mm.visualization.affect_marks import AffectMarker, FaceMark

BOX = (100.0, 40.0, 180.0, 120.0)
NAN = float("nan")
_GREY = (120, 124, 132)  # of the circle


def grey(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), 90, dtype=np.uint8)


def draw(*faces: FaceMark, height: int = 240, width: int = 320, aspect: float = 1.0) -> np.ndarray:
    canvas = grey(height, width)
    AffectMarker(width, height, aspect).draw(canvas, 0.0, faces)
    return canvas


def displayed(picture: np.ndarray, aspect: float) -> np.ndarray:
    """Return the picture in square pixels."""
    height, width = picture.shape[:2]
    size = (round(width * max(aspect, 1)), round(height * max(1 / aspect, 1)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR))


def white(picture: np.ndarray) -> np.ndarray:
    """Return where a picture is white, as (x, y)."""
    y, x = np.nonzero(picture.min(axis=2) >= 245)
    return np.stack([x, y], axis=1)


def dot(valence: float, arousal: float, **options) -> np.ndarray:
    return white(draw(FaceMark(None, (valence, arousal)), **options))


def test_the_box_is_drawn_at_its_corners_and_leaves_the_face_alone():
    changed = (draw(FaceMark(BOX, None)) != grey()).any(axis=-1)
    for x, y in ((100, 40), (179, 40), (100, 119), (179, 119)):
        assert changed[y - 2 : y + 3, x - 2 : x + 3].any()
    assert not changed[46:114, 106:174].any()
    assert not changed[40:120, 125:155].any()


def test_a_held_box_is_dimmer_and_no_box_is_not_drawn():
    seen, held = (draw(FaceMark(BOX, None, flag))[:130, 90:190].max() for flag in (True, False))
    assert seen > held > 90
    for box in (None, (NAN, NAN, NAN, NAN), np.full(4, np.nan, np.float32)):
        assert (draw(FaceMark(box, (0, 0)))[:130, 90:190] == 90).all()


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (1440, 2560)])
@pytest.mark.parametrize("affect", [(0.5, -0.25), (-0.8, 0.6), (0.0, 0.0), (1.0, 1.0), (3.0, -7.0)])
def test_the_dot_lies_where_its_numbers_say(size: tuple[int, int], affect: tuple[float, float]):
    """The circle has a radius of 25 and its centre 31 from two edges of the panel, which is 6 off the picture's."""
    unit = size[0] / 240
    valence, arousal = np.clip(affect, -1, 1)
    expected = np.array([6 + 31 + 25 * valence, 240 - 6 - 62 + 31 - 25 * arousal]) * unit
    found = dot(*affect, height=size[0], width=size[1])
    np.testing.assert_allclose(found.mean(axis=0) + 0.5, expected, atol=0.8 + 0.3 * unit)


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5, 64 / 51, 128 / 117])
def test_dot_ring_and_circle_are_round_as_displayed(aspect: float):
    height, width = round(960 * min(aspect, 1)), round(1280 / max(aspect, 1))
    there, ring = (FaceMark(None, (-0.6, -0.6), target=target) for target in (None, (0.3, 0.4)))
    plain, ringed, dotted = (
        displayed(draw(mark, height=height, width=width, aspect=aspect), aspect).astype(int)[960 - 4 * 68 :, : 4 * 66]
        for mark in (there, ring, FaceMark(None, (0.3, 0.4)))
    )
    marks = {
        "dot": (dotted.min(axis=2) > 200, 6 * 4),
        "ring": (np.abs(ringed - plain).max(axis=2) > 90, 8.6 * 4),
        "circle": (np.abs(plain - _GREY).max(axis=2) < 25, 50.7 * 4),
    }
    for name, (shown, diameter) in marks.items():
        down, across = np.ptp(np.argwhere(shown), axis=0) + 1
        assert abs(down - across) <= 3, name
        assert across == pytest.approx(diameter, abs=5), name


@pytest.mark.parametrize("affect", [None, (NAN, NAN), (0.2, NAN), np.full(2, np.nan, np.float32)])
def test_without_a_number_there_is_no_dot_and_no_bar(affect):
    with_dot, without = draw(FaceMark(None, (0.5, 0.5))), draw(FaceMark(None, affect))
    assert len(white(with_dot)) > 20
    assert len(white(without)) == 0
    # Sky blue and orange are left in the two names alone, at the left of the panel's right half.
    for colour in ((86, 180, 233), (240, 165, 40)):
        blue = [np.abs(p.astype(int) - colour).max(axis=2) < 12 for p in (with_dot, without)]
        assert blue[1].sum() < blue[0].sum()
        assert blue[1][:, 115:].sum() == 0
    assert (without != draw(FaceMark(None, (0.0, 0.0)))).any()


def test_without_faces_a_picture_stays_as_it_is():
    assert (draw() == 90).all()


def trail(*steps: tuple[float, FaceMark | None]) -> np.ndarray:
    """Return the circumplex after several pictures."""
    marker = AffectMarker(320, 240)
    for time, face in steps:
        canvas = grey()
        marker.draw(canvas, time, () if face is None else (face,))
    return canvas[172:234, 6:68]


HERE, THERE = FaceMark(None, (-0.8, 0.3)), FaceMark(None, (0.8, 0.3))
ALONE = trail((0.0, THERE))


def test_the_trail_shows_the_last_moments():
    assert (trail((0.0, HERE), (0.5, THERE)) != ALONE).any()
    assert (trail((0.0, HERE), (1.3, THERE)) == ALONE).all()
    early, late = (trail((0.0, HERE), (0.1, THERE), (t, THERE)) for t in (0.2, 1.1))
    assert early.astype(int).sum() > late.astype(int).sum() > ALONE.astype(int).sum()


@pytest.mark.parametrize("gap", [None, FaceMark(None, None), FaceMark(None, (NAN, NAN))])
def test_the_trail_begins_anew_after_a_gap(gap: FaceMark | None):
    assert (trail((0.0, HERE), (0.1, gap), (0.2, THERE)) == ALONE).all()


def test_the_trail_begins_anew_with_another_person():
    one, other = (FaceMark(None, face.affect, person=n) for n, face in ((1, HERE), (2, THERE)))
    assert (trail((0.0, one), (0.1, other)) == trail((0.0, other))).all()
    same = FaceMark(None, HERE.affect, person=2)
    assert (trail((0.0, same), (0.1, other)) != trail((0.0, other))).any()


def test_a_high_rate_costs_no_more_points():
    marker = AffectMarker(320, 240)
    for index in range(700):
        marker.draw(grey(8, 8), index / 500, (FaceMark(None, (index % 7 / 7, 0.1)),))
    assert len(marker._trail) <= 2 * 1.2 / 0.02


def test_a_ring_marks_the_ground_truth():
    ring, plain = draw(FaceMark(None, (-0.5, 0), target=(0.5, 0.5))), draw(FaceMark(None, (-0.5, 0)))
    changed = np.argwhere((ring != plain).any(axis=-1))
    np.testing.assert_allclose(changed.mean(axis=0) + 0.5, (172 + 31 - 12.5, 6 + 31 + 12.5), atol=1)
    for missing in (None, (NAN, 0.2)):
        assert (draw(FaceMark(None, (-0.5, 0), target=missing)) == plain).all()


def test_every_person_has_a_box_with_number_and_values_and_the_first_one_the_panel():
    boxes = ((40.0, 60.0, 90.0, 110.0), (200.0, 60.0, 250.0, 110.0))
    first, second = (FaceMark(box, (v, v), person=n) for n, box, v in zip((1, 2), boxes, (0.5, -0.5), strict=True))
    both, one = draw(first, second), draw(first)
    labels = [both[60 - 25 : 55, int(box[0]) : int(box[0]) + 60] for box in boxes]
    assert all((label != 90).any() for label in labels)
    assert (labels[0] != labels[1]).any()
    panel = np.s_[172:234, 6:152]
    assert (both[panel] == one[panel]).all()
    assert (draw(second, first)[panel] != both[panel]).any()
    # One person alone has the number on the box, and the values on the panel.
    label = one[60 - 25 : 55, 40:100]
    assert (label != 90).any()
    assert (label != labels[0]).any()
    # Without numbers there are the values.
    assert (draw(FaceMark(boxes[0], (0.5, 0.5)), FaceMark(boxes[1], None))[35:55, 40:100] != 90).any()
    assert (draw(FaceMark(boxes[0], (0.5, 0.5)))[35:55, 40:100] == 90).all()


@pytest.mark.parametrize("aspect", [1.0, 3.0, 0.3])
@pytest.mark.parametrize("size", [(48, 64), (240, 320), (33, 400), (600, 200), (2, 2), (1, 300)])
@pytest.mark.parametrize(
    "box", [BOX, (-50.0, -50.0, 5.0, 5.0), (1e9, -1e9, 2e9, 1e30), (300.0, 200.0, 100.0, 40.0), (0.0, 0.0, 0.0, 0.0)]
)
def test_any_size_can_be_drawn_on(size: tuple[int, int], aspect: float, box: tuple[float, ...]):
    faces = (FaceMark(box, (0.4, -0.4), person=12), FaceMark(box, None, person=3))
    assert draw(*faces, height=size[0], width=size[1], aspect=aspect).shape == (*size, 3)
