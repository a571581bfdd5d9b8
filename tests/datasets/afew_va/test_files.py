"""The JSON of AFEW-VA: golden content, and one exact message for each trap."""

import json

import numpy as np
import pytest

from hocp_mm.datasets.afew_va.files import (
    find_afew_va_clips,
    find_frame_images,
    read_afew_va_actor,
    read_afew_va_json,
)
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.structures import same_actor

POINTS = [[10 + k, 20.5 + k] for k in range(68)]
# As the release writes it, but for the order: ids backwards, arousal in front, landmarks first, one list empty.
GOLDEN = (
    '{"video_id": "001", "frames": {'
    '"00010": {"landmarks": [], "arousal": 10, "valence": -10},'
    f'"00002": {{"arousal": 3, "landmarks": {json.dumps(POINTS)}, "valence": -2}},'
    f'"00000": {{"valence": 0, "arousal": -7.0, "landmarks": {json.dumps(POINTS)}}}'
    '}, "actor": " Ann   Ash "}'
)


@pytest.fixture
def put(tmp_path):
    def write(text, folder="001"):
        path = tmp_path / folder / f"{folder}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def frames(**changes):
    """Return a clip of one frame with changes; ``valence="…"`` is put in as JSON text."""
    frame = {"valence": "1", "arousal": "2", "landmarks": "[]", **changes}
    body = ", ".join(f'"{key}": {value}' for key, value in frame.items() if value is not None)
    return f'{{"actor": "A", "video_id": "001", "frames": {{"00000": {{{body}}}}}}}'


def test_frames_are_told_apart_by_their_id_whatever_the_order(put):
    clip = read_afew_va_json(put(GOLDEN))
    assert clip.actor == "Ann Ash"
    assert clip.affect == {0: (0.0, -7.0), 2: (-2.0, 3.0), 10: (-10.0, 10.0)}
    assert clip.faults == {}
    assert clip.landmarks[10] is None
    np.testing.assert_array_equal(clip.landmarks[2], np.float32(POINTS))


def test_a_byte_order_mark_and_other_scripts_are_read(put):
    clip = read_afew_va_json(put(b"\xef\xbb\xbf" + GOLDEN.replace("Ann", "Zoë 图").encode()))
    assert clip.actor == "Zoë 图 Ash"


def test_labels_on_another_scale_may_have_fractions(put):
    clip = read_afew_va_json(put(frames(valence="-0.25", arousal="0.5")), (-1.0, 1.0))
    assert clip.affect == {0: (-0.25, 0.5)}


WHOLE = {
    "no JSON": ("{", "not readable as JSON"),
    "zero bytes": ("", "not readable as JSON"),
    "not UTF-8": (b'{"actor": "\xff"}', "not readable as JSON .*utf-8"),
    "nested without end": ("[" * 100_000, "not readable as JSON"),
    "a list": ("[]", "a clip's JSON must be an object with actor, frames, video_id, got a list"),
    "another clip": (
        GOLDEN.replace('"001"', '"002"'),
        "video_id must be the name of the folder, '001', got '002'",
    ),
    "no video_id": (GOLDEN.replace("video_id", "video"), "video_id must be the name of the folder, '001', got None"),
    "number as video_id": (GOLDEN.replace('"001"', "1"), "video_id must be the name of the folder, '001', got 1"),
    "no actor": (GOLDEN.replace("actor", "person"), "'actor' must name the person, .* got None"),
    "empty actor": (GOLDEN.replace(" Ann   Ash ", "  "), "'actor' must name the person, .* got '  '"),
    "frames in a list": (
        '{"actor": "A", "video_id": "001", "frames": [{"valence": 1}]}',
        r"'frames' must be a dict keyed by frame id \('00000': \{…\}\), got a list",
    ),
    "no frames": ('{"actor": "A", "video_id": "001", "frames": {}}', "'frames' must be a dict .*, got no frame"),
    "ids of three digits": (GOLDEN.replace('"00002"', '"002"'), "frame ids must be five digits, got '002'"),
    "ids in other digits": (GOLDEN.replace('"00002"', '"٠٠٠٠٢"'), "frame ids must be five digits, got '٠٠٠٠٢'"),
    "an id twice": (GOLDEN.replace('"00002"', '"00000"'), "not readable as JSON .*key '00000' is given twice"),
    "a label twice": (frames(valence='1, "valence": 2'), "not readable as JSON .*key 'valence' is given twice"),
}


@pytest.mark.parametrize(("text", "message"), WHOLE.values(), ids=WHOLE)
def test_a_file_that_breaks_a_rule_is_named_with_it(put, text, message):
    with pytest.raises(DataError, match=rf"001\.json: {message}"):
        read_afew_va_json(put(text))


RANGE = r"must lie in label_range \(-10, 10\), got"
FRAME = {
    "word": (frames(valence='"high"'), "valence must be a number, got 'high'"),
    "missing": (frames(arousal=None), "arousal must be a number, got None"),
    "true": (frames(arousal="true"), "arousal must be a number, got True"),
    "NaN": (frames(valence="NaN"), "valence must be a number, got nan"),
    "infinite": (frames(valence="1e999"), "valence must be a number, got inf"),
    "too high": (frames(valence="11"), f"valence {RANGE} 11"),
    "too low": (frames(arousal="-10.5"), f"arousal {RANGE} -10.5"),
    "divided by ten": (frames(valence="0.3"), "valence must be a whole number on the scale of -10 to 10, got 0.3"),
    "whole number of 400 digits": (frames(valence="9" * 400), "valence must be a number, got 9999"),
    "point of 400 digits": (
        frames(landmarks=json.dumps([[10**400, 1]] * 68)),
        r"landmarks must be finite points \[x, y\], got \[1000",
    ),
    "point beyond float32": (
        frames(landmarks=json.dumps([[1e39, 1]] * 68)),
        r"landmarks must be finite points \[x, y\], got \[1e\+39, 1\]",
    ),
    "no object": (frames().replace('{"valence"', '[{"valence"').replace("[]}", "[]}]"), "must be an object .* a list"),
    "67 points": (frames(landmarks=json.dumps(POINTS[:67])), "landmarks must be 68 points .*, got 67 points"),
    "no landmarks": (frames(landmarks=None), "landmarks must be 68 points .* or an empty list, got nothing"),
    "three numbers": (
        frames(landmarks=json.dumps([[1, 2, 3]] * 68)),
        r"landmarks must be finite points \[x, y\], got \[1, 2, 3\]",
    ),
    "null in a point": (
        frames(landmarks=json.dumps([[1, None]] * 68)),
        r"landmarks must be finite points \[x, y\], got \[1, None\]",
    ),
    "NaN in a point": (
        frames(landmarks="[" + ", ".join(["[NaN, 1]"] * 68) + "]"),
        r"landmarks must be finite .* got \[nan, 1\]",
    ),
}


@pytest.mark.parametrize(("text", "message"), FRAME.values(), ids=FRAME)
def test_a_fault_of_one_frame_is_kept_with_its_id(put, text, message):
    clip = read_afew_va_json(put(text))
    assert clip.affect == clip.landmarks == {}
    assert list(clip.faults) == [0]
    with pytest.raises(DataError, match=rf"001\.json: frame '00000': {message}"):
        raise DataError(clip.faults[0])


def test_missing_and_unreadable_files_are_named(put, tmp_path):
    with pytest.raises(MissingDataError, match=r"003\.json: no such label file"):
        read_afew_va_json(tmp_path / "003/003.json")
    (tmp_path / "004/004.json").mkdir(parents=True)
    with pytest.raises(DataError, match=r"004\.json: the label file cannot be read \(Is a directory\)"):
        read_afew_va_actor(tmp_path / "004/004.json")


def test_clips_are_folders_of_three_digits(tmp_path):
    for name in ("002", "001", "600", "001_cropped", "folds", "0001", "12"):
        (tmp_path / name).mkdir()
    (tmp_path / "003").write_text("no folder")
    assert find_afew_va_clips(tmp_path) == ["001", "002", "600"]
    with pytest.raises(DataError, match=r"must hold folders named by three digits, as 001/001\.json"):
        find_afew_va_clips(tmp_path / "001")
    with pytest.raises(MissingDataError, match="none: no such folder"):
        find_afew_va_clips(tmp_path / "none")


def test_frames_are_pngs_of_five_digits(tmp_path):
    for name in ("00000.png", "00012.png", "0001.png", "00001.jpg", "00002.png.part", "a0003.png", "Thumbs.db"):
        (tmp_path / name).write_text("")
    assert find_frame_images(tmp_path) == {0: str(tmp_path / "00000.png"), 12: str(tmp_path / "00012.png")}
    with pytest.raises(DataError, match=r"none: the folder of a clip cannot be read"):
        find_frame_images(tmp_path / "none")


@pytest.mark.parametrize("variant", ["ann ash", " Ann  Ash", "ANN ASH", "Ann\tAsh", "Ann\u00a0Ash"])
def test_spelling_variants_are_one_actor(variant):
    assert same_actor(variant) == same_actor("Ann Ash")
    assert same_actor("Zoe\u0308 Ash") == same_actor("Zoë Ash") != same_actor("Zoe Ash")
