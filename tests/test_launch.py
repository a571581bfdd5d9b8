import pytest

from hocp_mm.errors import HOCPError, MissingDataError
from hocp_mm.launch import load_config


@pytest.mark.parametrize(
    ("text", "reason"),
    [("model = dict(type='A'\n", "SyntaxError"), ("model = unknown_name\n", "NameError: name 'unknown_name'")],
    ids=["no Python", "an unknown name"],
)
def test_a_file_that_is_no_config_is_named_with_the_reason(tmp_path, text, reason):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(HOCPError, match=rf"config: .*broken\.py cannot be read \({reason}.+\)\."):
        load_config(path)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"no such file: .*absent\.py"):
        load_config(tmp_path / "absent.py")


def test_options_override_keys(tmp_path):
    path = tmp_path / "small.py"
    path.write_text("model = dict(rank=4)\n")
    assert load_config(path, {"model.rank": 8}).model.rank == 8
