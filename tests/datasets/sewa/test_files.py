"""Names of segments, and label files: what is read, and what is refused with which words."""

import pytest

from hocp_mm.datasets.sewa.files import find_sewa_keys, parse_sewa_key, read_affect_csv
from hocp_mm.errors import DataError, MissingDataError

PUBLISHED_KEYS = {  # names seen in public loaders; P is 2S or 2S - 1: the partners of one conversation
    "SSL_C2_S055_P109_VC1_004803_005542": ("SSL", "C2", "S055", "P109", 4803, 5542),
    "SAH_C6_S181_P362_VC1_000742_001590": ("SAH", "C6", "S181", "P362", 742, 1590),
    "SVH_C4_S107_P214_VC1_005501_006000": ("SVH", "C4", "S107", "P214", 5501, 6000),
}


@pytest.mark.parametrize(("key", "parts"), PUBLISHED_KEYS.items())
def test_keys_come_apart(key, parts):
    assert parse_sewa_key(key) == parts


@pytest.mark.parametrize("key", ["", "splits", "SSL_C2_S055_P109_VC1_004803", "x/SSL_C2_S055_P109_VC1_004803_005542"])
def test_other_names_are_refused(key):
    with pytest.raises(DataError, match="a key must read like SSL_C2_S055_P109_VC1_004803_005542"):
        parse_sewa_key(key)


def test_segments_are_found_among_other_folders(tmp_path):
    for name in (*PUBLISHED_KEYS, "splits", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "SVH_C4_S107_P214_VC1_005501_006001").write_text("a file, no folder")
    assert find_sewa_keys(tmp_path) == sorted(PUBLISHED_KEYS)


def test_a_root_without_segments_is_named(tmp_path):
    with pytest.raises(DataError, match="must hold folders named like"):
        find_sewa_keys(tmp_path)
    with pytest.raises(MissingDataError, match="no such folder"):
        find_sewa_keys(tmp_path / "none")


def _csv(tmp_path, content: str | bytes):
    path = tmp_path / "K_Valence_V_Aligned.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


GOOD_FILES = {
    "as released": ("frame,valence\n0,0.37\n1,-0.82\n", 2),
    "no header": ("0,0.37\n1,-0.82\n", 1),
    "capital name": ("Frame,Valence\n0,0.37\n1,-0.82", 2),
    "semicolons, CRLF and BOM": ("\ufeffframe;valence\r\n0;0.37\r\n1;-0.82\r\n", 2),
    "blanks and empty end": ("frame , valence \n 0 , 0.37 \n 1,-0.82\n\n \n", 2),
    "quoted names": ('"frame","valence"\n0,0.37\n1,-0.82\n', 2),
    "column by name": ("frame,arousal,valence\n0,9,0.37\n1,9,-0.82\n", 2),
    "mean over annotators": ("frame,A1,A2\n0,0.30,0.44\n1,-0.80,-0.84\n", 2),
    "numbered by time": ("time,rating\n0.00,0.37\n0.04,-0.82\n", 2),
    "numbered as in the recording": ("frame,valence\n742,0.37\n743,-0.82\n", 2),
    "no times among annotators": (
        "frame,time,A1,time_s,A2,sec,Seconds\n0,0,0.30,0,0.44,0,0\n1,4,-0.80,4,-0.84,4,4\n",
        2,
    ),
    "the second annotator": ("frame,first,second\n0,0.30,0.44\n1,-0.80,-0.84\n", 2),
    "times beside the dimension": ("frame,time,valence\n0,0,0.37\n1,4,-0.82\n", 2),
    "number written as fraction": ("frame,valence\n0.0,3.7e-1\n1.0,-.82\n", 2),
}


@pytest.mark.parametrize(("content", "first_line"), GOOD_FILES.values(), ids=GOOD_FILES)
def test_values_keep_their_fraction(tmp_path, content, first_line):
    values, line = read_affect_csv(_csv(tmp_path, content), "valence", first_frame=742)
    assert values.tolist() == pytest.approx([0.37, -0.82], abs=1e-12)
    assert line == first_line


BAD_FILES = {
    "zero bytes": ("", "must hold one row per frame, got none"),
    "header only": ("frame,valence\n", "must hold one row per frame, got none"),
    "one column": ("frame\n0\n", "must hold a frame number and a value, got 'frame'"),
    "other dimension": (
        "frame,arousal\n0,1\n",
        "a column must be named 'valence', got 'arousal': are two files swapped",
    ),
    "one name for two": ("frame,valence,valence\n0,0.1,0.9\n", "names of their own, got 'valence' more than once"),
    "one name in other letters": ("frame,valence,'Valence'\n0,0.1,0.9\n", "got 'valence' more than once"),
    "one annotator twice": ("frame,A1,A1\n0,0.1,0.9\n", "got 'a1' more than once"),
    "frames twice": ("frame,valence,frame\n0,0.1,0\n", "got 'frame' more than once"),
    "no values": ("frame,time_s\n0,0.1\n", "a column must be named 'valence', got .'frame', 'time_s'"),
    "a word": ("frame,valence\n0,0.1\n1,high\n", "finite numbers, but line 3, column 2 is 'high'"),
    "NaN": ("frame,valence\n0,NaN\n", "line 2, column 2 is 'NaN'"),
    "inf": ("frame,valence\n0,0\n1,-inf\n", "line 3, column 2 is '-inf'"),
    "empty cell": ("frame,valence\n0,\n", "line 2, column 2 is empty"),
    "decimal comma": ("frame;valence\n0;0,37\n", "line 2, column 2 is '0,37'"),
    "row too short": ("frame,valence\n0,0.1\n1\n", "line 3 must have 2 cells, got 1"),
    "row too long": ("frame,valence\n0,0.1\n1,0,2\n", "line 3 must have 2 cells, got 3"),
    "empty line inside": ("frame,valence\n0,0.1\n\n1,0.2\n", "line 3 must have 2 cells, got 1"),
    "gap": ("frame,valence\n0,0.1\n2,0.2\n", "without gaps, but line 3 has frame 2 after 0"),
    "repeat": ("frame,valence\n0,0.1\n0,0.2\n", "without gaps, but line 3 has frame 0 after 0"),
    "one-based": ("frame,valence\n1,0.1\n2,0.2\n", "numbered from 0 or 742, got 1. Is the file one-based"),
    "other offset": ("frame,valence\n50,0.1\n51,0.2\n", "numbered from 0 or 742, got 50"),
    "time stands still": ("time,valence\n0,0.1\n0,0.2\n", "times must increase, but line 3 does not"),
    "binary": (b"frame,valence\n0,\xff\xfe", "must be UTF-8 text"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_faults_are_named_with_file_line_and_cell(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"K_Valence_V_Aligned\.csv: .*{message}"):
        read_affect_csv(_csv(tmp_path, content), "valence", first_frame=742)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"none\.csv: no such label file"):
        read_affect_csv(tmp_path / "none.csv", "valence")


def test_decimal_commas_do_not_make_labels_of_their_whole_parts(tmp_path):
    path = tmp_path / "v.csv"
    path.write_text("frame,valence\n0,0,25\n1,0,5\n")
    with pytest.raises(DataError, match=r"must have the 2 cells of the header, but line 2 has 3: are the decimals"):
        read_affect_csv(path, "valence")
