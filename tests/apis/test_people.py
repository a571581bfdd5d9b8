"""Whom to watch, and what the log of a video says."""

import numpy as np
import pytest

from hocp_mm.apis import Watched, WatchLog, choose_people, smooth_over_time
from hocp_mm.datasets import VideoInfo
from hocp_mm.datasets.faces.following import Face, Followed, Frame
from hocp_mm.errors import NoFaceError
from hocp_mm.structures import AffectTimeline

PICTURE = np.zeros((4, 4, 3), np.uint8)
SMALL, LARGE = np.float32([0, 0, 10, 10]), np.float32([20, 20, 60, 60])


def item(*faces, number=0, cut=False):
    return Followed(Frame(number, number / 25, PICTURE), tuple(Face(p, box, True) for p, box in faces), cut)


def test_the_largest_is_watched_until_she_goes():
    choose = choose_people("largest")
    assert list(choose(item((1, SMALL), (2, LARGE)))) == [2]
    assert list(choose(item((1, LARGE), (2, SMALL)))) == [2]  # still there: nobody takes her place
    assert list(choose(item((1, SMALL)))) == [1]
    assert list(choose(item())) == []
    assert list(choose(item((1, SMALL), (2, LARGE)))) == [2]


def test_all_a_number_and_a_point():
    both = item((1, SMALL), (2, LARGE))
    assert list(choose_people("all")(both)) == [1, 2]
    assert list(choose_people(2)(both)) == [2]
    assert list(choose_people(3)(both)) == []
    at = choose_people((5, 12))  # under the box, within the head
    assert list(at(both)) == [1]
    assert list(at(item((1, LARGE), (2, SMALL)))) == [1]  # she moved, another is at the point
    assert list(choose_people((5, 45))(both)) == []
    assert list(choose_people((5, 5))(item((1, None)))) == [1]


@pytest.mark.parametrize("person", ["smallest", 0, -1, True, (1,), (1, 2, 3), "2"])
def test_what_is_no_choice_is_refused(person):
    with pytest.raises(ValueError, match="person: must be 'largest', 'all', a number from 1 or a point"):
        choose_people(person)


def log_of(rows, variable=False):
    """Return the log of frames, each a dict of affect by person and a tuple of those who are there, too."""
    info = VideoInfo(len(rows), 25.0, 64, 48, "mpeg4", variable=variable)
    log = WatchLog("folder/clip.mp4", info)
    for number, (affect, others) in enumerate(rows):
        faces = tuple(Face(person, SMALL, number % 2 == 0) for person in sorted({*affect, *others}))
        time = number / 25 if not variable else number**2 / 25
        frame = Frame(number, time, PICTURE)
        values = {person: np.float32(value) for person, value in affect.items()}
        log.add(Watched(frame, faces, number == 2, values))
    return log


ROWS = [({1: (0.1, 0.2)}, (3,)), ({}, ()), ({2: (0.3, -0.4)}, ()), ({2: (0.5, 0.6)}, (3,))]


def test_the_timeline_has_a_row_for_every_frame_and_none_is_made_up():
    timeline = log_of(ROWS).timeline()
    assert timeline.frames.tolist() == [0, 1, 2, 3]
    assert timeline.person.tolist() == [1, 0, 2, 2]
    np.testing.assert_array_equal(timeline.pred, np.float32([(0.1, 0.2), (np.nan, np.nan), (0.3, -0.4), (0.5, 0.6)]))
    assert timeline.face_found.tolist() == [True, False, True, False]
    assert timeline.times is None
    assert log_of(ROWS).timeline(told_apart=False).person is None
    assert log_of(ROWS, variable=True).timeline().time_s.tolist() == [0, 1 / 25, 4 / 25, 9 / 25]


def test_each_person_has_a_timeline_and_all_have_one_table(tmp_path):
    log = log_of([({1: (0.1, 0.2), 2: (0.5, 0.6)}, ()), ({2: (0.3, -0.4)}, ())])
    lines = log.timelines()
    assert {person: line.frames.tolist() for person, line in lines.items()} == {1: [0], 2: [0, 1]}
    assert isinstance(lines[2], AffectTimeline)
    more = ",x1,y1,x2,y2,valence_smoothed,arousal_smoothed"
    box = ",0.0,0.0,10.0,10.0"
    assert log.write_people(tmp_path / "a.csv").read_text().splitlines() == [
        f"frame,time_s,person,valence,arousal,face_found{more}",
        f"0,0.0,1,0.1,0.2,1{box},0.1,0.2",
        f"0,0.0,2,0.5,0.6,1{box},0.5,0.6",
        f"1,0.04,2,0.3,-0.4,0{box},0.3,-0.4",
    ]


def test_the_summary_says_what_was_left_out():
    text = log_of(ROWS).summary()
    assert text == (
        "3 of 4 frames (75 %) with a face, 3 people (watched: 1, 2; not watched: person 3 (2 frames)), 1 cut"
    )
    assert log_of([({1: (0, 0)}, ())]).summary() == "1 of 1 frames (100 %) with a face, 1 person, 0 cuts"
    facts = log_of(ROWS).facts()
    assert (facts["frames"], facts["frames_with_face"], facts["cuts"], facts["watched"]) == (4, 3, 1, [1, 2])
    assert facts["people"] == {"1": 1, "2": 2, "3": 2}


def test_a_video_in_which_nobody_is_seen_has_no_timeline():
    with pytest.raises(NoFaceError, match="no face found in 1 frames"):
        log_of([({}, (3,))]).timeline()


def test_smoothed_values_cross_neither_cuts_nor_gaps_nor_people():
    """And are those of `smooth_over_time` within each."""
    rng = np.random.default_rng(0)
    person = [1] * 6 + [0] + [1] * 5 + [2] * 6  # with a gap, and somebody else behind it
    rows = [({who: tuple(rng.uniform(-1, 1, 2))} if who else {}, ()) for who in person]
    info = VideoInfo(len(rows), 25.0, 64, 48, "mpeg4")
    log, plain = WatchLog("clip.mp4", info, smooth=0.1), WatchLog("clip.mp4", info, smooth=0)
    for number, (affect, _) in enumerate(rows):
        faces = tuple(Face(who, SMALL, True, 0.5) for who in affect)
        values = {who: np.float32(value) for who, value in affect.items()}
        for own in (log, plain):
            own.add(Watched(Frame(number, number / 25, PICTURE), faces, number == 9, values))
    line, times = log.timeline(), np.arange(len(rows)) / 25
    for start, stop in ((0, 6), (7, 9), (9, 12), (12, 18)):
        own = slice(start, stop)
        expected = smooth_over_time(line.pred[own], times[own], 0.1, np.zeros(stop - start, np.int64))
        np.testing.assert_allclose(line.smoothed[own], np.clip(expected, -1, 1), atol=1e-6)
        # Through two values a line goes as they are.
        assert stop - start == 2 or np.abs(line.smoothed[own] - line.pred[own]).max() > 0.05
    assert np.isnan(line.smoothed[6]).all()
    np.testing.assert_array_equal(plain.timeline().smoothed, plain.timeline().pred)
    assert line.face_confidence[[0, 17]].tolist() == [0.5, 0.5]
    assert np.isnan(line.face_confidence[6])
    np.testing.assert_array_equal(log.timelines()[2].smoothed, line.smoothed[12:])
    with pytest.raises(ValueError, match="smooth: must be 0 seconds or more"):
        WatchLog("clip.mp4", info, smooth=-1)


def test_the_expression_is_the_most_probable_one():
    info = VideoInfo(3, 25.0, 64, 48, "mpeg4")
    log = WatchLog("clip.mp4", info, expressions=("happy", "sad"))
    for number, scores in enumerate(([0.6, 0.4], [0.1, 0.9], None)):
        affect = {} if scores is None else {1: np.float32((0, 0))}
        told = {} if scores is None else {1: np.float32(scores)}
        frame = Frame(number, number / 25, PICTURE)
        log.add(Watched(frame, (Face(1, SMALL, True),), False, affect, told))
    assert log.timeline().expression.tolist() == ["happy", "sad", ""]
    assert log.timelines()[1].expression.tolist() == ["happy", "sad"]
