"""The landmarks reader asks for little, and says what it cannot read."""

import zipfile

import numpy as np
import pytest

from hocp_mm.datasets.sewa.files import read_landmarks_zip
from hocp_mm.errors import DataError, MissingDataError
from tests.material.sewa_files import square_landmarks, write_landmarks_zip


def test_landmarks_zip_gives_points_and_holes(tmp_path):
    points = square_landmarks()
    path = write_landmarks_zip(tmp_path / "K_Landmarks.zip", 4, {0: points, 1: None, 3: points + 1})
    landmarks = read_landmarks_zip(path, num_frames=4)
    np.testing.assert_allclose(landmarks[0], points, atol=1e-3)
    np.testing.assert_allclose(landmarks[3], points + 1, atol=1e-3)
    assert np.isnan(landmarks[[1, 2]]).all()


def _zip(path, texts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return path


LINE = " ".join(str(i) for i in range(98))
PAIRS = "\n".join(f"{2 * i} {2 * i + 1}" for i in range(49))


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        f"\ufeff{LINE}\r\n",
        f"0.1 0.2 0.3\n1 2 3 4\n{LINE}\n",
        LINE.replace(" ", ","),
        f"version: 1\nn_points: 49\n{{\n{PAIRS}\n}}\n",
        f"0.1 0.2 0.3\n{PAIRS}",
    ],
    ids=["bare line", "BOM and CRLF", "pose and eyes first", "commas", "pts", "49 lines"],
)
def test_landmark_files_may_look_different(tmp_path, text):
    landmarks = read_landmarks_zip(_zip(tmp_path / "l.zip", {"sub/K_0.txt": text}), num_frames=1)
    np.testing.assert_array_equal(landmarks[0].ravel(), np.arange(98))


def test_one_based_landmark_names_are_recognised_by_their_last_number(tmp_path):
    other = " ".join(str(i + 1) for i in range(98))
    landmarks = read_landmarks_zip(_zip(tmp_path / "l.zip", {"K_1.txt": LINE, "K_2.txt": other}), num_frames=2)
    assert landmarks[:, 0, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "name", ["9" * 5000 + ".txt", "0" * 60_000 + "x.txt", "9" * 60_000 + ".", "K" * 60_000 + "_0.txt"]
)
def test_a_name_longer_than_any_is_refused_before_it_is_searched_for_a_number(tmp_path, name):
    """Python's int() refuses thousands of digits, and a search for the last ones takes their square: minutes."""
    with pytest.raises(DataError, match=r"l\.zip: names in it must end in the frame number, got '.{1,40}") as caught:
        read_landmarks_zip(_zip(tmp_path / "l.zip", {name: LINE}), num_frames=1)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300


def test_points_that_are_not_finite_are_no_face(tmp_path):
    text = LINE.replace("97", "nan")
    assert np.isnan(read_landmarks_zip(_zip(tmp_path / "l.zip", {"K_0.txt": text}), num_frames=1)).all()


BAD_ZIPS = {
    "no number in the name": ({"pose.txt": LINE}, r"must end in the frame number, got 'pose\.txt'"),
    "beyond the video": ({"K_0.txt": LINE, "K_9.txt": LINE}, r"lie in the video of 3 frames, got 'K_9\.txt'"),
    "two files for a frame": ({"K_1.txt": LINE, "K_01.txt": LINE}, "frame 1 has two files"),
    "97 numbers": ({"K_0.txt": LINE[:-3]}, r"l\.zip:K_0\.txt: a frame must have one line of 98 numbers .* got 0 and 0"),
    "two faces": ({"K_0.txt": f"{LINE}\n{LINE}"}, "got 2 and 0"),
    "words": ({"K_0.txt": "no face here"}, "got 0 and 0"),
}


@pytest.mark.parametrize(("texts", "message"), BAD_ZIPS.values(), ids=BAD_ZIPS)
def test_landmark_faults_are_named(tmp_path, texts, message):
    with pytest.raises(DataError, match=message):
        read_landmarks_zip(_zip(tmp_path / "l.zip", texts), num_frames=3)


def test_a_zip_that_is_none_is_named(tmp_path):
    (tmp_path / "l.zip").write_bytes(b"PK but no more")
    with pytest.raises(DataError, match=r"l\.zip: not a readable zip file"):
        read_landmarks_zip(tmp_path / "l.zip", 3)
    with pytest.raises(MissingDataError, match=r"m\.zip: no such landmarks file"):
        read_landmarks_zip(tmp_path / "m.zip", 3)


def test_files_beyond_the_end_are_passed_over_only_within_the_tolerance(tmp_path):
    path = _zip(tmp_path / "l.zip", {"K_0.txt": LINE, "K_1.txt": LINE, "K_2.txt": LINE})
    assert read_landmarks_zip(path, num_frames=2, tolerance=1).shape == (2, 49, 2)
    with pytest.raises(DataError, match=r"video of 1 frames, got 'K_2\.txt'"):
        read_landmarks_zip(path, num_frames=1, tolerance=1)


def test_what_a_mac_adds_to_a_zip_is_passed_over(tmp_path):
    members = {"K_0.txt": LINE, "__MACOSX/._K_0.txt": "\0", "__MACOSX/": "", ".DS_Store": "\0", "./K_1.txt": LINE}
    landmarks = read_landmarks_zip(_zip(tmp_path / "l.zip", members), num_frames=2)
    np.testing.assert_array_equal(landmarks.reshape(2, 98), [np.arange(98)] * 2)


def test_a_member_that_unpacks_to_more_than_a_frame_may_have_is_refused(tmp_path):
    path = tmp_path / "l.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("K_0.txt", LINE + "\n" * (1 << 20))
    with pytest.raises(DataError, match=r"K_0\.txt: a frame must unpack to at most 65536 bytes, got more"):
        read_landmarks_zip(path, num_frames=1)


@pytest.mark.parametrize("number", ["1e30", "-1e30", "1e7", "inf", "nan"])
def test_points_farther_out_than_any_picture_are_no_face(tmp_path, number):
    landmarks = read_landmarks_zip(_zip(tmp_path / "l.zip", {"K_0.txt": LINE.replace("97", number)}), num_frames=1)
    assert np.isnan(landmarks[0]).all()


FRAME = LINE + "\n"
LONG_FRAMES = {  # each has its landmarks, and besides them what a reader would look at for long
    "pairs that are passed over": (FRAME + "1 1\n" * 16_000, r"K_0\.txt: a frame must have at most 1024 lines"),
    "as many pairs as bytes": (FRAME + "1 1\n" * (1 << 18), r"K_0\.txt: a frame must unpack to at most 65536 bytes"),
    "one line of words": (FRAME + "1 " * 32_000, r"l\.zip: frames must unpack to at most 16384 bytes in the mean"),
    "blanks": (FRAME + " " * 65_000, r"l\.zip: frames must unpack to at most 16384 bytes in the mean"),
    "empty lines": (FRAME + "\n" * 65_000, r"l\.zip: frames must unpack to at most 16384 bytes in the mean"),
    "separators": (FRAME + ",;" * 32_000, r"l\.zip: frames must unpack to at most 16384 bytes in the mean"),
}


@pytest.mark.parametrize(("text", "message"), LONG_FRAMES.values(), ids=LONG_FRAMES)
def test_a_small_zip_is_not_read_for_minutes(tmp_path, text, message):
    path = tmp_path / "l.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for frame in range(100):
            archive.writestr(f"K_{frame}.txt", text)
    with pytest.raises(DataError, match=message):
        read_landmarks_zip(path, num_frames=100)


def test_a_frame_may_have_pose_eyes_and_many_digits(tmp_path):
    eyes = "".join(f"{number}.123456789012345 {number}.123456789012345\n" for number in range(68))
    line = " ".join(f"{number}.{'0' * 18}" for number in range(98))
    landmarks = read_landmarks_zip(_zip(tmp_path / "l.zip", {"K_0.txt": f"{eyes}{line}\n{eyes}"}), num_frames=1)
    np.testing.assert_array_equal(landmarks[0].ravel(), np.arange(98))
