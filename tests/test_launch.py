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


FOLDED = """
fold = 0
train_dataloader = dict(dataset=dict(type="RepeatDataset", dataset=dict(type="A", fold=0)))
val_dataloader = dict(dataset=dict(type="A", fold=0))
test_dataloader = dict(dataset=dict(type="ConcatDataset", datasets=[dict(type="A", fold=0), dict(type="B")]))
"""
LOADERS = (
    "train_dataloader.dataset.dataset.fold",
    "val_dataloader.dataset.fold",
    "test_dataloader.dataset.datasets.0.fold",
)


@pytest.fixture
def folded(tmp_path):
    path = tmp_path / "folded.py"
    path.write_text(FOLDED)
    return path


def _folds(cfg):
    train, val, test = (cfg[f"{split}_dataloader"].dataset for split in ("train", "val", "test"))
    return train.dataset.fold, val.fold, test.datasets[0].fold


def test_one_fold_reaches_every_data_set(folded):
    cfg = load_config(folded, {"fold": 3})
    assert (cfg.fold, *_folds(cfg)) == (3, 3, 3, 3)
    assert "fold" not in cfg.test_dataloader.dataset.datasets[1]
    assert _folds(load_config(folded)) == (0, 0, 0)


def test_folds_given_for_each_loader_count_too(folded):
    cfg = load_config(folded, dict.fromkeys(LOADERS[:2], 2) | {"test_dataloader.dataset.datasets": [{"fold": 2}]})
    assert (cfg.fold, *_folds(cfg)) == (2, 2, 2, 2)


def test_folds_that_differ_would_test_on_training_people_and_are_refused(folded):
    with pytest.raises(
        HOCPError, match="all data sets must read one fold, got train_dataloader 2, val_dataloader 0, test_dataloader 0"
    ):
        load_config(folded, {LOADERS[0]: 2})
    with pytest.raises(HOCPError, match="give fold once, for all data sets, or for each of them, got both"):
        load_config(folded, {LOADERS[0]: 2, "fold": 1})


def test_a_fold_for_data_without_folds_is_refused(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("train_dataloader = dict(dataset=dict(type='A'))\n")
    with pytest.raises(HOCPError, match="fold=1 needs a data set with folds, got none"):
        load_config(path, {"fold": 1})
