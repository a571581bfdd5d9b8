"""Heat lies where it should, in the colour of its sign."""

import numpy as np

from hocp_mm.visualization.heat import LOWERS, RAISES, draw_heat, write_label


def test_cells_lie_on_their_part_of_the_square():
    picture = np.full((100, 120, 3), 128, np.uint8)
    heat = np.zeros((4, 4))
    heat[0, 0], heat[3, 3] = 1, -1
    draw_heat(picture, heat, (20, 10, 100, 90))
    raised, lowered = picture[12, 22].astype(int), picture[87, 97].astype(int)
    np.testing.assert_allclose(raised, 128 + 0.7 * (np.array(RAISES) - 128), atol=1)
    np.testing.assert_allclose(lowered, 128 + 0.7 * (np.array(LOWERS) - 128), atol=1)
    changed = (picture != 128).any(-1)
    assert not changed[:10].any()
    assert not changed[:, :20].any()
    assert not changed[90:].any()
    assert not changed[:, 100:].any()
    assert not changed[40:60, 50:70].any()  # the middle, where heat is nothing


def test_beyond_the_picture_nothing_is_drawn_and_what_is_inside_stays_in_place():
    heat = np.linspace(-1, 1, 16).reshape(4, 4)
    wide = np.full((200, 200, 3), 90, np.uint8)
    draw_heat(wide, heat, (30, 40, 130, 140))
    part = np.full((80, 70, 3), 90, np.uint8)
    draw_heat(part, heat, (30 - 60, 40 - 70, 130 - 60, 140 - 70))
    np.testing.assert_allclose(part[:70, :70].astype(int), wide[70:140, 60:130].astype(int), atol=1)
    outside = part.copy()
    draw_heat(outside, heat, (100, 100, 150, 150))
    np.testing.assert_array_equal(outside, part)


def test_heat_beyond_one_is_as_strong_as_one():
    one, more = np.full((2, 10, 10, 3), 50, np.uint8)
    draw_heat(one, np.ones((2, 2)), (0, 0, 10, 10))
    draw_heat(more, np.full((2, 2), 7.0), (0, 0, 10, 10))
    np.testing.assert_array_equal(one, more)


def test_labels_stand_at_the_top_left():
    picture = np.full((120, 160, 3), 90, np.uint8)
    write_label(picture, "valence")
    changed = np.argwhere((picture != 90).any(-1))
    assert len(changed) > 50
    assert changed.max(0)[0] < 40
    assert changed.max(0)[1] < 110
