"""Where the files of AffectNet lie: the places that public loaders use."""

from collections.abc import Callable
from pathlib import Path

from hocp_mm.errors import DataError, MissingDataError

_CSV = {"train": "training.csv", "val": "validation.csv"}
_PARTS = {"train": "train_set", "val": "val_set"}
# As unpacked side by side; below one folder (EMOCA); below the folder that the archive of images makes.
_CSV_FOLDERS = ("", "Manually_Annotated", "Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated")
_IMAGES = "Manually_Annotated_Images"
_IMAGE_FOLDERS = ("", "Manually_Annotated", "Manually_Annotated_compressed", "Manually_Annotated/Manually_Annotated")
_HINT = (
    "AffectNet is given out for research on request at http://mohammadmahoor.com/affectnet; to try everything without "
    "it, `hocp_mm.synthetic.write_synthetic_affectnet` writes a synthetic set of the same layout."
)


def find_csv(root: Path, split: str, given: str | None) -> Path:
    """Return the csv file of a split of the release of 2017.

    Args:
        root: ``data_root``.
        split: ``"train"`` or ``"val"``.
        given: File that the config names, below ``root`` or absolute.

    Returns:
        The file.
    """
    if given is not None:
        return _named(root, root / given, "labels_file", Path.is_file)
    places = [root / folder / _CSV[split] for folder in _CSV_FOLDERS]
    return _only(root, places, _is_there, f"{_CSV[split]} of the release of 2017", "labels_file")


def find_images(root: Path, given: str | None) -> Path:
    """Return the folder that the paths of the csv files are relative to.

    Args:
        root: ``data_root``.
        given: Folder that the config names, below ``root`` or absolute.

    Returns:
        The folder.
    """
    if given is not None:
        return _named(root, root / given, "image_folder", Path.is_dir)
    places = [root / folder / _IMAGES for folder in _IMAGE_FOLDERS]
    return _only(root, places, Path.is_dir, f"folder {_IMAGES}", "image_folder")


def find_part(root: Path, split: str) -> Path:
    """Return the folder of a split of the release of 2021.

    Args:
        root: ``data_root``.
        split: ``"train"`` or ``"val"``.

    Returns:
        The folder.
    """
    return _only(
        root, [root / _PARTS[split]], Path.is_dir, f"folder {_PARTS[split]} of the release of 2021", "data_root"
    )


def _named(root: Path, path: Path, option: str, exists: Callable[[Path], bool]) -> Path:
    _check_root(root)
    if not exists(path):
        raise MissingDataError(f"AffectNetDataset: {option} {str(path)!r} does not exist.")
    return path


def _only(root: Path, places: list[Path], exists: Callable[[Path], bool], what: str, option: str) -> Path:
    """Return the one place that exists; two would be a guess."""
    _check_root(root)
    found = [place for place in places if exists(place)]
    if not found:
        raise MissingDataError(f"AffectNetDataset: {root} holds no {what} (config key `{option}`). {_HINT}")
    if len(found) > 1:
        raise DataError(
            f"AffectNetDataset: there must be one {what}, got {' and '.join(map(str, found))}; name one by `{option}`."
        )
    return found[0]


def _is_there(path: Path) -> bool:
    """Tell whether there is anything of this name; reading it says what is wrong with it."""
    return path.is_symlink() or path.exists()


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise MissingDataError(
            f"AffectNetDataset: data_root {str(root)!r} does not exist (config key `data_root` of the data set). "
            f"{_HINT}"
        )
