"""Aff-Wild2's files: lines and pictures that count from one, marks, people, and the submission."""

import numpy as np
import pytest

from hocp_mm.datasets.affwild2.files import (
    find_crops,
    find_label_files,
    list_crops,
    read_va_file,
    video_of,
    write_va_file,
)
from hocp_mm.errors import DataError, MissingDataError


def _file(tmp_path, content):
    path = tmp_path / "7-60-1920x1080.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_labels_keep_their_order_and_marks_are_found(tmp_path):
    values, counts = read_va_file(_file(tmp_path, "valence,arousal\n0.37,-0.82\n-5,-5\n-1,1\n"))
    assert values.tolist() == [[0.37, -0.82], [-5, -5], [-1, 1]]
    assert counts.tolist() == [True, False, True]


@pytest.mark.parametrize("row", ["-5,-5", "-5.0,-5.0", "0.2,-5", "-5,0.2", "-1.001,0", "0,-2"])
def test_a_frame_counts_only_if_both_values_reach_minus_one(tmp_path, row):
    assert read_va_file(_file(tmp_path, f"valence,arousal\n{row}\n0,0\n"))[1].tolist() == [False, True]


@pytest.mark.parametrize("head", ["\ufeffvalence,arousal\r\n", "Valence, Arousal\n", "valence,arousal\n"])
def test_bom_line_ends_and_blanks_do_not_matter(tmp_path, head):
    assert read_va_file(_file(tmp_path, f"{head}0.5, -0.5\n\n"))[0].tolist() == [[0.5, -0.5]]


BAD = {
    "zero bytes": ("", r"the first line must be 'valence,arousal', got an empty file"),
    "no header": ("0.1,0.2\n0.3,0.4\n", r"the first line must be 'valence,arousal', got '0\.1,0\.2'"),
    "swapped columns": ("arousal,valence\n0,0\n", r"the first line must be 'valence,arousal', got 'arousal,valence'"),
    "header only": ("valence,arousal\n", "must hold one line per frame, got none"),
    "a word": ("valence,arousal\n0,0\n0,high\n", "two finite numbers, but line 3 is '0,high'"),
    "NaN": ("valence,arousal\nnan,0\n", "two finite numbers, but line 2 is 'nan,0'"),
    "one number": ("valence,arousal\n0.5\n", r"but line 2 is '0\.5'"),
    "three numbers": ("valence,arousal\n0,0,0\n", "but line 2 is '0,0,0'"),
    "a blank line": ("valence,arousal\n0,0\n\n0,0\n", "but line 3 is ''"),
    "no text": (b"valence,arousal\n\xff", "must be UTF-8 text"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_each_fault_of_a_label_file_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"7-60-1920x1080\.txt: .*{message}"):
        read_va_file(_file(tmp_path, content))


def test_a_missing_label_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"none\.txt: no such label file"):
        read_va_file(tmp_path / "none.txt")


def test_two_people_are_of_one_video_and_a_name_may_begin_like_that():
    assert [video_of(name) for name in ("a_left", "a_right", "left_a", "a_left_b")] == ["a", "a", "left_a", "a_left_b"]


def _pictures(folder, *names, content=b"x"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)
    return folder


def test_picture_one_belongs_to_the_first_frame(tmp_path):
    folder = _pictures(tmp_path, "00001.jpg", "00003.jpg", "00005.jpg", ".DS_Store", "Thumbs.db", "._00002.jpg")
    listing = list_crops(folder, 4)
    assert listing.files == [str(folder / "00001.jpg"), "", str(folder / "00003.jpg"), ""]
    assert (listing.empty, listing.beyond) == (0, 1)


def test_numbers_may_outgrow_five_digits(tmp_path):
    folder = _pictures(tmp_path, "100001.jpg")
    assert list_crops(folder, 100001).files[-1] == str(folder / "100001.jpg")


def test_an_empty_picture_is_none(tmp_path):
    _pictures(tmp_path, "00001.jpg")
    folder = _pictures(tmp_path, "00002.jpg", content=b"")
    listing = list_crops(folder, 2)
    assert (listing.files[1], listing.empty) == ("", 1)


def test_links_to_nowhere_or_to_themselves_and_folders_are_no_pictures(tmp_path):
    (tmp_path / "00001.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "00002.jpg").symlink_to(tmp_path / "00002.jpg")
    (tmp_path / "00003.jpg").mkdir()
    listing = list_crops(_pictures(tmp_path, "00004.jpg"), 4)
    assert listing.files == ["", "", "", str(tmp_path / "00004.jpg")]
    assert (listing.empty, listing.beyond) == (3, 0)


@pytest.mark.parametrize("name", ["00000.jpg", "frame1.jpg", "00001_det.jpg"])
def test_a_picture_must_be_numbered_from_one(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: pictures must be numbered from 1 like 00001\.jpg"):
        list_crops(_pictures(tmp_path, name), 5)


def test_two_pictures_of_one_frame_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"picture 1 must be one file, got another at"):
        list_crops(_pictures(tmp_path, "00001.jpg", "00001.jpeg"), 5)


def test_a_person_has_an_own_folder_or_that_of_the_video(tmp_path):
    roots = [tmp_path / "cropped_aligned", tmp_path / "cropped_aligned_new_50_vids"]
    shared, own = roots[0] / "video5", roots[1] / "video5_left"
    shared.mkdir(parents=True)
    own.mkdir(parents=True)
    assert find_crops(roots, "video5_left") == own
    assert find_crops(roots, "video5_right") == find_crops(roots, "video5") == shared
    with pytest.raises(
        MissingDataError, match=r"cropped_aligned/video6: no such folder of crops, nor in .*new_50_vids"
    ):
        find_crops(roots, "video6")
    (roots[1] / "video5").mkdir()
    with pytest.raises(DataError, match=r"new_50_vids/video5: a video may have one folder of crops, got another at"):
        find_crops(roots, "video5")


def test_the_only_folder_of_annotations_is_found_and_two_are_not_guessed_between(tmp_path):
    for year in ("5th ABAW Annotations", "6th ABAW Annotations"):
        part = tmp_path / year / "VA_Estimation_Challenge" / "Train_Set"
        part.mkdir(parents=True)
        (part / "b.txt").write_text("")
        (part / "a.txt").write_text("")
        (part / ".hidden.txt").write_text("")
        if year.startswith("5"):
            assert [file.name for file in find_label_files(tmp_path, "train")] == ["a.txt", "b.txt"]
    with pytest.raises(
        DataError, match=r"one folder of annotations must be chosen, got .*5th.*6th.*: set `annotations`"
    ):
        find_label_files(tmp_path, "train")
    chosen = find_label_files(tmp_path, "train", "6th ABAW Annotations/VA_Estimation_Challenge")
    assert chosen[0].parts[-4] == "6th ABAW Annotations"
    with pytest.raises(MissingDataError, match=r"Validation_Set: no such folder of label files \(config key `annotat"):
        find_label_files(tmp_path, "val", "6th ABAW Annotations/VA_Estimation_Challenge")


def test_no_annotations_at_all_name_what_is_expected(tmp_path):
    with pytest.raises(MissingDataError, match=r"<Nth ABAW Annotations>/VA_Estimation_Challenge/Train_Set: no such"):
        find_label_files(tmp_path, "train")
    (tmp_path / "VA_Estimation_Challenge/Train_Set").mkdir(parents=True)
    with pytest.raises(DataError, match=r"Train_Set: must hold <video>\.txt files, got none"):
        find_label_files(tmp_path, "train")
    with pytest.raises(ValueError, match="split must be one of train, val, got 'test'"):
        find_label_files(tmp_path, "test")


def test_a_submission_has_a_line_for_every_frame(tmp_path):
    """Holes by linear interpolation, ends by repetition; the bytes are those the challenge reads."""
    path = write_va_file(tmp_path / "new/a.txt", [2, 3, 6], np.array([[0.5, -1], [0, 0], [0.3, 0.6]]), num_frames=9)
    assert path.read_bytes() == (
        b"valence,arousal\n"
        b"0.500000,-1.000000\n0.500000,-1.000000\n0.500000,-1.000000\n0.000000,0.000000\n0.100000,0.200000\n"
        b"0.200000,0.400000\n0.300000,0.600000\n0.300000,0.600000\n0.300000,0.600000\n"
    )
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    values, counts = read_va_file(path)
    assert (len(values), counts.all()) == (9, True)


BAD_PREDICTIONS = {
    "none": ([], np.zeros((0, 2)), r"at least one, got \(0,\) and \(0, 2\)"),
    "another length": (
        [0, 1],
        np.zeros((3, 2)),
        r"one \(valence, arousal\) per frame, at least one, got \(2,\) and \(3, 2",
    ),
    "beyond the end": ([0, 9], np.zeros((2, 2)), r"frames must increase strictly within \[0, 8\]"),
    "unsorted": ([1, 0], np.zeros((2, 2)), "frames must increase strictly"),
    "out of range": ([0, 4], np.array([[0, 0], [0, 1.01]]), r"must lie in \[-1, 1\], got \[0\.0, 1\.01\] at frame 4"),
    "NaN": ([0, 4], np.array([[0, 0], [np.nan, 0]]), r"got \[nan, 0\.0\] at frame 4"),
}


@pytest.mark.parametrize(("frames", "pred", "message"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS)
def test_a_submission_is_not_written_from_bad_predictions(tmp_path, frames, pred, message):
    with pytest.raises(ValueError, match=rf"a\.txt: .*{message}"):
        write_va_file(tmp_path / "a.txt", frames, pred, num_frames=9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["0.1_5,0", "\u0660,0", "0,0,0", "0"])
def test_a_line_is_two_plain_numbers(tmp_path, line):
    path = tmp_path / "v.txt"
    path.write_text(f"valence,arousal\n0,0\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"v\.txt: a line must be two finite numbers, but line 3 is"):
        read_va_file(path)
