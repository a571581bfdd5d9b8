"""metadata.ini: read with little asked of it, as only one line of the real files is known."""

import pytest

from hocp_mm.datasets import SEWADataset, read_sewa_metadata
from hocp_mm.datasets.records import dataset as records
from hocp_mm.datasets.sewa import dataset as sewa
from hocp_mm.errors import DataError, MissingDataError
from tests.material.sewa_files import KEYS

GOOD = {
    "sections": "[Segment]\nConversation=55\nSubject=109\nCategory=SAH\n[Demographics]\nCulture=C2\n",
    "no section": "Conversation=55\nSubject=109\nCategory=SAH\nCulture=C2\n",
    "colons, blanks, case, comments": "; made by hand\n conversation : S055 \nSUBJECT: P109\n# note\ncategory : SAH\n",
    "CRLF, BOM and quotes": "\ufeffConversation=55\r\nSubject=\"109\"\r\nCategory='SAH'\r\n",
    "repeated names": "Conversation=55\nSubject=109\nCategory=SAH\nCategory=SVL\n",
    "words in front": "Conversation Number=055\nSubject Number=109\nCategory=SAH\n",
    "a value with an equals sign": "Category=SAH\nConversation=55\nSubject=109\nNote=a=b\n",
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_category_conversation_and_subject_are_found(tmp_path, content):
    path = tmp_path / "metadata.ini"
    path.write_bytes(content.encode())
    metadata = read_sewa_metadata(path)
    assert (metadata.category, metadata.conversation, metadata.person) == ("SAH", 55, 109)


def test_everything_is_kept_by_section_and_name(tmp_path):
    path = tmp_path / "metadata.ini"
    path.write_bytes("Index=1\n[Demographics]\nCity=Köln\nAge = 30\n".encode("latin-1"))
    metadata = read_sewa_metadata(path)
    assert metadata.values == {
        ("", "index"): "1", ("demographics", "city"): "Köln", ("demographics", "age"): "30"
    }  # fmt: skip
    assert (metadata.category, metadata.conversation, metadata.person) == ("", None, None)


@pytest.mark.parametrize("content", [b"", b"nothing here\n", b"a=b\x00\x00"], ids=["empty", "no value", "zeros"])
def test_a_file_without_values_is_named(tmp_path, content):
    (tmp_path / "metadata.ini").write_bytes(content)
    with pytest.raises(DataError, match=r"metadata\.ini: must hold lines name=value, got"):
        read_sewa_metadata(tmp_path / "metadata.ini")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"metadata\.ini: no such metadata file"):
        read_sewa_metadata(tmp_path / "metadata.ini")


def test_the_data_set_warns_where_metadata_and_name_disagree(damaged_root, monkeypatch):
    told = []
    for module in (sewa, records):
        monkeypatch.setattr(module, "print_log", lambda text, **options: told.append(text))
    (damaged_root / KEYS[0] / "metadata.ini").write_text("Category=AH\nConversation=1\nSubject=2\n")
    (damaged_root / KEYS[1] / "metadata.ini").write_text("Category=SVL\nConversation=2\nSubject=3\n")
    SEWADataset(damaged_root)
    assert told[0] == (
        f"SEWADataset(train): metadata.ini contradicts the folder's name in 1 of 2: {KEYS[0]} (subject 2, named P001)"
    )
    assert len(told) == 2


@pytest.mark.parametrize("number", ["9" * 5000, "S" + "0" * 50_000 + "x", "1" * 19])
def test_a_number_of_too_many_digits_is_none(tmp_path, number):
    """Python's int() refuses thousands of them."""
    (tmp_path / "metadata.ini").write_text(f"[Info]\nSubject={number}\nConversation=S007\n")
    metadata = read_sewa_metadata(tmp_path / "metadata.ini")
    assert (metadata.conversation, metadata.person) == (7, None)
