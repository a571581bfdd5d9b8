"""AVEC's label files: the column order, the three editions, and the times."""

import numpy as np
import pytest

from hocp_mm.datasets.avec.files import labels_at, parse_avec_name, read_avec_csv
from hocp_mm.errors import DataError, MissingDataError

# The bytes of AVEC 2019 (two rows of one file, not neighbours, hence hop=None).
GOLDEN = (
    "name;timestamp;arousal;valence;liking\n"
    "'Devel_DE_01';0.000000;0.000000;0.000000;0.000000\n"
    "'Devel_DE_01';29.800000;0.858903;0.941009;-0.497086\n"
)


def _file(tmp_path, content, name="Devel_DE_01"):
    path = tmp_path / f"{name}.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_bytes_of_2019_give_valence_before_arousal(tmp_path):
    times, affect, first_line = read_avec_csv(_file(tmp_path, GOLDEN), hop=None)
    assert times.tolist() == [0.0, 29.8]
    assert affect.tolist() == [[0.0, 0.0], [0.941009, 0.858903]]
    assert first_line == 2


EDITIONS = {
    "2019, with header": ("Devel_DE_01", "name;timestamp;arousal;valence;liking\n", "'Devel_DE_01'", "\n", 2),
    "2018, without header": ("Train_HU_03", "", "'Train_HU_03'", "\n", 1),
    "2017, without culture": ("Train_01", "", "'Train_01'", "\n", 1),
    "double quotes, CRLF and BOM": (
        "Train_01",
        "\ufeffname;timestamp;arousal;valence;liking\r\n",
        '"Train_01"',
        "\r\n",
        2,
    ),
    "no quotes": ("Train_01", "", "Train_01", "\n", 1),
    "blank end": ("Train_01", "", "Train_01", "\n\n \n", 1),
}


@pytest.mark.parametrize(("name", "header", "quoted", "end", "line"), EDITIONS.values(), ids=EDITIONS)
def test_one_reader_serves_all_editions(tmp_path, name, header, quoted, end, line):
    newline = "\r\n" if "\r" in header else "\n"
    rows = newline.join([f"{quoted};0.000000;-0.5;0.25;0", f"{quoted};0.100000;0.75;-0.125;0"])
    times, affect, first_line = read_avec_csv(_file(tmp_path, header + rows + end, name))
    assert times.tolist() == [0.0, 0.1]
    assert affect.tolist() == [[0.25, -0.5], [-0.125, 0.75]]
    assert first_line == line


def test_columns_count_by_their_names_where_there_is_a_header(tmp_path):
    content = "name;timestamp;valence;arousal\n'Devel_DE_01';0;0.25;-0.5\n"
    assert read_avec_csv(_file(tmp_path, content))[1].tolist() == [[0.25, -0.5]]


def test_liking_may_be_left_out(tmp_path):
    assert read_avec_csv(_file(tmp_path, "'Devel_DE_01';0;-0.5;0.25\n"))[1].tolist() == [[0.25, -0.5]]


BAD = {
    "zero bytes": ("", r"must hold at least one row, got none"),
    "header only": ("name;timestamp;arousal;valence;liking\n", "must hold at least one row, got none"),
    "commas": ("Devel_DE_01,0,0,0,0\n", r"columns must be name;timestamp;arousal;valence;liking, got 'Devel_DE_01,0"),
    "a column is missing": ("name;timestamp;arousal\n'Devel_DE_01';0;1\n", "columns must be name;timestamp;arousal;"),
    "a column twice": ("name;timestamp;arousal;valence;valence\nDevel_DE_01;0;1;1;1\n", "columns must be name;"),
    "a short row": (GOLDEN[:-10] + "\n'Devel_DE_01';29.9\n", r"line 4 must have 5 cells .* got 2"),
    "another recording": (
        "'Devel_DE_02';0;0;0;0\n",
        "rows must bear the name of the file, but line 1 has 'Devel_DE_02'",
    ),
    "a word": ("'Devel_DE_01';0;high;0;0\n", "finite numbers, but arousal in line 1 is 'high'"),
    "NaN": ("'Devel_DE_01';0;0;nan;0\n", "but valence in line 1 is 'nan'"),
    "an empty cell": ("'Devel_DE_01';0;0;;0\n", "but valence in line 1 is empty"),
    "a gap": (
        "'Devel_DE_01';0;0;0;0\n'Devel_DE_01';0.2;0;0;0\n",
        r"must lie 0\.1 s apart, but line 2 is at 0\.2 s after 0 s",
    ),
    "a time twice": ("'Devel_DE_01';0;0;0;0\n'Devel_DE_01';0;0;0;0\n", r"line 2 is at 0 s after 0 s"),
    "before the start": ("'Devel_DE_01';-0.1;0;0;0\n", r"times must start at 0 or later, got -0\.1"),
    "no text": (b"\xff\xfe\x00", "must be UTF-8 text"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_each_fault_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"Devel_DE_01\.csv: .*{message}"):
        read_avec_csv(_file(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"Devel_DE_01\.csv: no such label file"):
        read_avec_csv(tmp_path / "Devel_DE_01.csv")


@pytest.mark.parametrize("name", ["", "Devel", "devel_DE_01", "Devel_de_01", "Devel_DE_01.wav", "Valid_DE_01"])
def test_other_names_are_refused(name):
    with pytest.raises(DataError, match="a name must read like Devel_DE_01 or, in 2017, Devel_01"):
        parse_avec_name(name)


TIMES = np.array([0.0, 0.1, 0.2])
LABELS = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])


def test_linear_joining_weighs_the_labels_on_both_sides():
    affect, valid = labels_at(TIMES, LABELS, np.array([0.0, 0.04, 0.1, 0.15, 0.2, 0.24]))
    np.testing.assert_allclose(affect[:, 0], [0, 0.4, 1, 0.75, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(affect[:, 1], [1, 0.6, 0, 0.25, 0.5, 0], atol=1e-6)
    assert valid.tolist() == [True] * 5 + [False]


def test_holding_takes_the_latest_label_and_the_last_one_lasts_a_hop():
    affect, valid = labels_at(TIMES, LABELS, np.array([0.0, 0.08, 0.1, 0.19, 0.28, 0.3]), "hold")
    assert affect[:, 0].tolist() == [0, 0, 1, 1, 0.5, 0]
    assert valid.tolist() == [True] * 5 + [False]


def test_the_frame_of_a_label_gets_that_label_though_the_times_are_rounded():
    """0.3 as five times 0.06 and as 3 / 10 are two floats; the sixth decimal decides nothing."""
    for offset in (-4e-7, 0, 4e-7):
        affect, valid = labels_at(TIMES, LABELS, TIMES + offset, "hold")
        assert affect[:, 0].tolist() == [0, 1, 0.5]
        assert valid.all()
        assert labels_at(TIMES, LABELS, TIMES + offset)[1].all()


@pytest.mark.parametrize("join", ["linear", "hold"])
def test_frames_before_the_first_label_have_none(join):
    affect, valid = labels_at(TIMES + 0.5, LABELS, np.array([0.0, 0.4, 0.5]), join)
    assert valid.tolist() == [False, False, True]
    assert affect[0].tolist() == [0, 0]


def test_a_single_label_belongs_to_its_own_moment():
    for join in ("linear", "hold"):
        assert labels_at(TIMES[:1], LABELS[:1], np.array([0.0, 0.04]), join)[1].tolist() == [True, False]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="join must be 'linear' or 'hold', got 'nearest'"):
        labels_at(TIMES, LABELS, TIMES, "nearest")
