"""People followed while frames go by: the same number for the same person, nothing across cuts, nobody by chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.datasets.faces.following import Frame, follow_faces

BRIDGE = 0.64


def picture(number, scene):
    """Return a frame that says its number; scenes differ in colours and places."""
    shown = np.full((60, 90, 3), 30 + 150 * (scene % 2), np.uint8)
    shown[:, 45:] = (200, 40, 90) if scene % 2 else (20, 120, 60)
    shown[0, 0] = (number // 200, number % 200, 0)
    return shown


class Oracle:
    """Finds the faces that a plan names, and counts its looks."""

    needs = "nothing"

    def __init__(self, plan):
        self.plan, self.looked = plan, []

    def __call__(self, frame):
        number = int(frame[0, 0, 0]) * 200 + int(frame[0, 0, 1])
        self.looked.append(number)
        boxes = np.float32(self.plan(number)).reshape(-1, 4)
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32))


def face(x, y=10.0, side=12.0):
    return [x, y, x + side, y + side]


def follow(plan, frames=100, fps=25.0, cuts=(), aspect=1.0, times=None):
    times = np.arange(frames) / fps if times is None else times
    scenes = np.searchsorted(cuts, np.arange(frames), side="right") if cuts else np.zeros(frames, int)
    detector = Oracle(plan)
    stream = (Frame(n, float(times[n]), picture(n, int(scenes[n]))) for n in range(frames))
    found = list(follow_faces(stream, detector, BRIDGE, aspect))
    assert [item.frame.number for item in found] == list(range(frames))
    return found, detector


def people(found):
    return [[face.person for face in item.faces] for item in found]


def test_a_moving_face_is_one_person_with_a_box_in_every_frame():
    found, detector = follow(lambda n: [face(10 + 0.4 * n)])
    assert people(found) == [[1]] * 100
    assert detector.looked == list(range(0, 100, 5))
    for item in found[:96]:
        np.testing.assert_allclose(item.faces[0].box, face(10 + 0.4 * item.frame.number), atol=1e-4)
    assert all(item.faces[0].seen for item in found)


@pytest.mark.parametrize("fps", [8.0, 24.0, 30.0, 60.0])
def test_the_detector_looks_five_times_a_second_at_every_rate(fps):
    found, detector = follow(lambda n: [face(20)], frames=round(4 * fps), fps=fps)
    assert people(found) == [[1]] * round(4 * fps)
    assert len(detector.looked) <= 21


def test_two_people_who_cross_keep_their_numbers():
    found, _ = follow(lambda n: sorted([face(5 + 0.7 * n, 8), face(70 - 0.6 * n, 30)], key=lambda box: -box[0]))
    for item in found[:96]:
        boxes = {face.person: face.box for face in item.faces}
        assert sorted(boxes) == [1, 2]
        tops = {round(float(box[1])): person for person, box in boxes.items()}
        assert tops == {8: 2, 30: 1} or tops == {8: 1, 30: 2}
        assert tops == {round(float(f.box[1])): f.person for f in found[0].faces}


@pytest.mark.parametrize(("gap", "bridged"), [(10, True), (30, False)])
def test_somebody_out_of_sight_is_bridged_or_gone(gap, bridged):
    found, _ = follow(lambda n: [face(20)] if not 40 <= n < 40 + gap else [])
    there = [bool(item.faces) for item in found]
    assert there == [bridged or not 40 <= n < 40 + gap for n in range(100)]
    assert all(not item.faces[0].seen for item in found[40 : 40 + gap] if item.faces)
    assert people(found)[99] == [1]  # back in her place


def test_who_comes_elsewhere_after_a_gap_is_another():
    found, _ = follow(lambda n: [face(10)] if n < 40 else [face(60)] if n >= 70 else [])
    assert people(found)[39] == [1]
    assert people(found)[50] == []
    assert people(found)[90] == [2]


def test_nobody_is_followed_across_a_cut():
    found, detector = follow(lambda n: [face(20)], cuts=(43,))
    assert people(found) == [[1]] * 43 + [[2]] * 57
    assert [item.frame.number for item in found if item.cut] == [43]
    assert 43 in detector.looked  # at once


def test_boxes_do_not_glide_across_a_cut():
    found, _ = follow(lambda n: [face(10)] if n < 43 else [face(60)], cuts=(43,))
    assert {float(item.faces[0].box[0]) for item in found} == {10.0, 60.0}
    assert [item.faces[0].box[0] for item in found].index(60.0) == 43


def test_a_single_chance_is_nobody():
    found, _ = follow(lambda n: [face(60)] if n == 50 else [])
    assert people(found) == [[]] * 100
    found, _ = follow(lambda n: [face(20), *([face(60)] if n == 50 else [])])
    assert people(found) == [[1]] * 100


def test_a_picture_alone_may_show_a_face():
    assert people(follow(lambda n: [face(20)], frames=1)[0]) == [[1]]
    assert people(follow(lambda n: [face(20)], frames=4)[0]) == [[1]] * 4


def test_numbers_are_given_in_the_order_of_appearance():
    found, _ = follow(lambda n: [*([face(60)] if n >= 30 else []), face(20)])
    assert people(found)[10] == [1]
    assert people(found)[60] == [1, 2]
    assert {f.person: float(f.box[0]) for f in found[60].faces} == {1: 20.0, 2: 60.0}


def test_boxes_are_those_of_the_file_where_pixels_are_not_square():
    found, _ = follow(lambda n: [face(40)], frames=20, aspect=2.0)
    np.testing.assert_allclose(found[5].faces[0].box, [20, 10, 26, 22])


def test_uneven_times_are_those_of_the_boxes():
    times = np.cumsum([0.02 if n % 7 else 0.3 for n in range(60)])
    found, detector = follow(lambda n: [face(5 + 10 * times[n])], frames=60, times=times)
    assert people(found) == [[1]] * 60
    last = max(detector.looked)
    for item in found[:last]:
        np.testing.assert_allclose(item.faces[0].box[0], 5 + 10 * item.frame.time, atol=1e-3)


def test_no_more_frames_are_held_than_the_bridge_asks_for():
    pulled = 0

    def stream():
        nonlocal pulled
        for number in range(200):
            pulled = number
            yield Frame(number, number / 25, picture(number, 0))

    for item in follow_faces(stream(), Oracle(lambda n: [face(20)]), BRIDGE):
        assert pulled - item.frame.number <= 25 * BRIDGE + 5 + 2


@settings(max_examples=60, deadline=None)
@given(
    presence=st.lists(st.tuples(st.integers(1, 60), st.booleans(), st.booleans()), min_size=1, max_size=8),
    cuts=st.lists(st.integers(3, 90), max_size=2, unique=True),
    fps=st.sampled_from([6.0, 25.0, 50.0]),
)
def test_nothing_is_made_up(presence, cuts, fps):
    """Whoever is shown was found in a look before and no longer ago than may be bridged; boxes lie between looks."""
    shown = [kinds for length, *kinds in presence for _ in range(length)][:100]
    boxes = [([face(5)] if one else []) + ([face(60)] if two else []) for one, two in shown]
    cuts = tuple(
        sorted(cut for cut in cuts if cut < len(shown) - 1 and all(abs(cut - o) > 3 for o in cuts if o != cut))
    )
    found, detector = follow(lambda n: boxes[n], frames=len(shown), fps=fps, cuts=cuts)
    scenes = np.searchsorted(cuts, np.arange(len(shown)), side="right")
    for item in found:
        number = item.frame.number
        for person in item.faces:
            place = 0 if person.box[0] < 30 else 1
            np.testing.assert_allclose(person.box, face((5, 60)[place]), atol=1e-4)
            before = [n for n in detector.looked if n <= number and shown[n][place] and scenes[n] == scenes[number]]
            assert before
            assert (number - before[-1]) / fps <= max(BRIDGE, 0.2 + 1.5 / fps) + 1 / fps
        numbers = [person.person for person in item.faces]
        assert numbers == sorted(set(numbers))
    scene_of: dict[int, set[int]] = {}
    for item in found:
        for person in item.faces:
            scene_of.setdefault(person.person, set()).add(int(scenes[item.frame.number]))
    assert all(len(own) == 1 for own in scene_of.values())


@pytest.mark.parametrize("pause", [0.5, 9.0, 11.0, 3600.0])
def test_a_film_that_stands_still_loses_nobody(pause):
    times = np.concatenate([np.arange(50) / 25, 2 + pause + np.arange(50) / 25])
    found, _ = follow(lambda n: [face(20)], times=times)
    assert people(found) == [[1]] * 100


@pytest.mark.parametrize("fps", [1.0, 1 / 9, 1 / 11, 1 / 3600])
def test_frames_far_apart_have_faces(fps):
    assert people(follow(lambda n: [face(20)], frames=5, fps=fps)[0]) == [[1]] * 5


def test_a_box_without_a_size_is_no_error():
    found, _ = follow(lambda n: [face(20), [50, 30, 50, 30]], frames=20)
    assert all(1 in [face.person for face in item.faces] for item in found)


@pytest.mark.parametrize("speed", [0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("higher", [0, 3])
def test_who_is_hidden_by_somebody_passing_is_herself_afterwards(speed, higher):
    """Two walk past each other, and one face hides the other for some looks: both go on as they went."""

    def places(number):
        return 5 + speed * number, 75 - speed * number

    def plan(number):
        front, behind = places(number)
        return [face(front, 20), *([face(behind, 20 + higher)] if abs(front - behind) > 6 else [])]

    found, _ = follow(plan, frames=int(70 / speed))
    for item in found[:-5]:
        if abs(np.subtract(*places(item.frame.number))) > 14:
            for one in item.faces:
                assert abs(one.box[0] - places(item.frame.number)[one.person - 1]) < 6
    assert people(found)[-10] == [1, 2]
