"""Parts and folds that keep people together."""

from hocp_mm.datasets.splits.folds import (
    Parts,
    check_folds,
    count_folds,
    make_folds,
    read_fold,
    write_fold_files,
)
from hocp_mm.datasets.splits.splits import (
    PARTS,
    check_folders,
    check_no_leak,
    is_as_written,
    read_split_file,
    refuse_to_replace,
    split_by_group,
    split_path,
    write_split_files,
)

__all__ = [
    "PARTS",
    "Parts",
    "check_folders",
    "check_folds",
    "check_no_leak",
    "count_folds",
    "is_as_written",
    "make_folds",
    "read_fold",
    "read_split_file",
    "refuse_to_replace",
    "split_by_group",
    "split_path",
    "write_fold_files",
    "write_split_files",
]
