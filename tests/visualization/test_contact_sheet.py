"""The sheet shows the very pixels it was given, and under each frame what its label says and nothing else."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from hocp_mm.visualization import ContactSheet, SheetClip, draw_contact_sheet


def clip(frames: int = 3, side: int = 130, seed: int = 0, **changes) -> SheetClip:
    rng = np.random.default_rng(seed)
    known = {
        "frames": rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8),
        "video": f"SAH_{seed}",
        "frame_inds": np.arange(frames) * 2 + 7,
        "affect": np.tile(np.array([0.374, -0.826], np.float32), (frames, 1)),
        "valid": np.ones(frames, bool),
        "face_found": np.ones(frames, bool),
        "num_frames": 90,
        "subject": "S001",
    }
    return SheetClip(**{**known, **changes})


def shown(sheet: ContactSheet, row: int, place: int, side: int) -> np.ndarray:
    """Return the block of the sheet where a frame should be, one pixel of each block."""
    x, y = sheet.places[row][place]
    span, zoom = side * sheet.zoom, sheet.zoom
    block = sheet.picture[y : y + span, x : x + span]
    assert np.array_equal(block, block[::zoom, ::zoom].repeat(zoom, axis=0).repeat(zoom, axis=1))
    return block[::zoom, ::zoom]


@pytest.mark.parametrize(("side", "zoom"), [(130, 1), (48, 3), (61, 2)])
def test_every_pixel_of_a_frame_is_on_the_sheet(side, zoom):
    clips = [clip(3, side, seed=0), clip(2, side, seed=1)]
    sheet = draw_contact_sheet(clips, "SEWADataset · train", "label_range (-1, 1)")
    assert sheet.zoom == zoom
    for row, given in enumerate(clips):
        for place, frame in enumerate(given.frames):
            np.testing.assert_array_equal(shown(sheet, row, place, side), frame)


def test_images_stand_side_by_side():
    clips = [clip(1, seed=seed) for seed in range(5)]
    sheet = draw_contact_sheet(clips, "AffectNetDataset", columns=3)
    tops = [places[0][1] for places in sheet.places]
    assert len({*tops[:3]}) == len({*tops[3:]}) == 1
    assert tops[3] > tops[2]
    for row, given in enumerate(clips):
        np.testing.assert_array_equal(shown(sheet, row, 0, 130), given.frames[0])


def texts(given: SheetClip, place: int) -> list[str]:
    return ["  ".join(text for text, _ in line) for line in given.caption(place)]


def test_the_caption_says_what_the_label_says():
    given = clip(
        4,
        frame_inds=np.array([0, 5, 9, -1]),
        affect=np.array([[0.374, -0.826], [-0.006, 1], [-0.004, 0], [0, 0]], np.float32),
        valid=np.array([True, False, True, False]),
        face_found=np.array([True, True, False, False]),
        expressions=("happy", "", "sad", ""),
    )
    assert texts(given, 0) == ["frame 0", "V +0.37  A −0.83", "✓ valid  ✓ face", "happy"]  # noqa: RUF001
    assert texts(given, 1) == ["frame 5", "V −0.01  A +1.00", "✗ valid  ✓ face", "no expression"]  # noqa: RUF001
    assert texts(given, 2)[1:] == ["V +0.00  A +0.00", "✓ valid  ✗ face", "sad"]
    assert texts(given, 3) == ["padding"]
    assert given.heading == "SAH_0  ·  frames 0 to 9 of 90  ·  subject S001"
    # An image is its record: it has no number and, in this set, nobody's name.
    assert texts(clip(1, num_frames=1), 0) == ["V +0.37  A −0.83", "✓ valid  ✓ face"]  # noqa: RUF001


@pytest.mark.parametrize(
    ("field", "value"),
    [("affect", (0.38, -0.826)), ("affect", (0.374, 0.826)), ("valid", False), ("face_found", False)],
)
def test_another_label_changes_the_sheet_below_its_frame_alone(field, value):
    given = clip(3)
    other = getattr(given, field).copy()
    other[1] = value
    sheets = [draw_contact_sheet([c], "title") for c in (given, dataclasses.replace(given, **{field: other}))]
    assert sheets[0].places == sheets[1].places
    rows, columns = np.nonzero((sheets[0].picture != sheets[1].picture).any(axis=2))
    (x, y), right = sheets[0].places[0][1], sheets[0].places[0][2][0]
    assert len(rows)
    assert rows.min() >= y + 130
    assert x <= columns.min() <= columns.max() < right


def test_all_text_fits_on_the_sheet():
    long = clip(1, video="0123456789" * 12, num_frames=5)
    sheet = draw_contact_sheet([clip(2), dataclasses.replace(clip(2, seed=1), video="k" * 100)], "t" * 60, "s" * 150)
    for picture in (sheet.picture, draw_contact_sheet([long], "title", "s" * 150).picture):
        assert (picture[:, -20:] == 255).all()
        assert (picture[-8:] == 255).all()


def test_the_file_holds_the_picture(tmp_path):
    sheet = draw_contact_sheet([clip()], "title")
    path = sheet.save(tmp_path / "new" / "sheet.png")
    np.testing.assert_array_equal(np.array(Image.open(path)), sheet.picture)


def test_frames_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="must have one size, got"):
        draw_contact_sheet([clip(side=130), clip(side=131)], "title")
    with pytest.raises(ValueError, match="got no clip"):
        draw_contact_sheet([], "title")
