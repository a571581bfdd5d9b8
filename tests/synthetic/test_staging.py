"""A folder that says that it is a synthetic set is a stranger's until its manifest is read."""

import pytest

from hocp_mm.errors import DataError
from hocp_mm.synthetic.staging import MANIFEST, write_staged


@pytest.mark.parametrize("content", [b"\xff\xff", b"{}" + b" " * (1 << 21), b"{}"], ids=["bytes", "large", "other"])
def test_a_manifest_of_another_kind_is_told_in_one_line(content, tmp_path):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(DataError, match=r"other numbers|must have at most"):
        write_staged(tmp_path, "{}\n", lambda folder: pytest.fail("written"), overwrite=False)
    assert (tmp_path / MANIFEST).read_bytes() == content
