"""A config as it is run: read, overridden, one fold and one store for all of its data sets."""

import copy
import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils import import_modules_from_strings

from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.registry import DATASETS
from hocp_mm.system.refusals import LONGEST_VALUE, shorten, visible

SPLITS = ("train", "val", "test")
_PACKAGE = Path(__file__).resolve().parents[1]

# Options that mean the same for a raw data set and for a store of it; those of mmengine's BaseDataset follow.
_KEPT = (
    "split",
    "fold",
    "pipeline",
    "clips_per_video",
    "windows",
    "test_mode",
    "on_fault",
    "metainfo",
    "filter_cfg",
    "indices",
    "serialize_data",
    "lazy_init",
    "max_refetch",
)
# What a raw data set is built with to be asked for its options: nothing that reads files or builds transforms.
_ASKED = ("split", "fold")


def find_config(path: str | Path) -> Path:
    """Return a config file: the user's own, or the recipe of this name that came with the package.

    Args:
        path: A file; or, where there is none, a recipe with or without ``configs/`` and ``.py``, such as ``hocp_sewa``.

    Returns:
        The file.

    Raises:
        MissingDataError: If there is neither.
    """
    path = Path(path)
    if path.is_file():
        return path
    name = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    places = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # of a wheel, of a repository
    recipes = next((place for place in places if (place / "_base_").is_dir()), None)
    if recipes is not None and not name.is_absolute() and ".." not in name.parts and name.parts:
        recipe = recipes / name.with_suffix(".py")
        if name.suffix in ("", ".py") and recipe.is_file():
            return recipe
    raise MissingDataError(f"config: no such file: {path}.")


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, import what its ``custom_imports`` name, and override some of its keys.

    Args:
        path: Config file (see `find_config`).
        options: Values by dotted key (``--cfg-options``).

    Returns:
        The config.

    Raises:
        MissingDataError: If there is no such file.
        HOCPError: If it is no config, an option would change nothing, its data sets would read different folds, or
            ``store`` among its keys cannot take their place (see `refuse_names`, `share_fold`, `use_store`).
    """
    path = find_config(path)
    try:
        # mmengine itself would import for configs in text style alone, and leave those with `read_base` without a word.
        cfg = Config.fromfile(str(path), import_custom_modules=False)
        if cfg.get("custom_imports"):
            import_modules_from_strings(**cfg.custom_imports)
    except Exception as error:  # a config is a program: anything can go wrong in it
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        hint = "; the folder of a module must be in PYTHONPATH" if isinstance(error, ImportError) else ""
        raise HOCPError(f"config: {path} cannot be read ({type(error).__name__}: {reason}){hint}.") from error
    if options:
        refuse_names(cfg, options)
        cfg.merge_from_dict(dict(options))
    share_fold(cfg, options or {})
    use_store(cfg)
    return cfg


def require_file(path: str | Path, what: str) -> Path:
    """Return ``path`` if it is a file.

    Args:
        path: File that must exist.
        what: Option or config key that named it, for the error text.

    Returns:
        The path.

    Raises:
        MissingDataError: If it is not a file.
    """
    if not Path(path).is_file():
        raise MissingDataError(f"{what}: no such file: {path}.")
    return Path(path)


def is_type(value: Any, name: str) -> bool:
    """Tell whether a config's ``type``, a class or a string with or without scope, names the class ``name``.

    Args:
        value: What stands under ``type``.
        name: Class name without scope.

    Returns:
        Whether the last part of the name is equal.

    Example:
        >>> is_type("hocp_mm.AffectMetric", "AffectMetric"), is_type(Path, "AffectMetric")
        (True, False)
    """
    return (value if isinstance(value, str) else getattr(value, "__name__", "")).rpartition(".")[2] == name


def drop_hooks(cfg: Config, *names: str) -> None:
    """Remove hooks from ``custom_hooks``, in place.

    Args:
        cfg: The config.
        *names: Class names, without scope.
    """
    hooks = cfg.get("custom_hooks") or []
    cfg.custom_hooks = [hook for hook in hooks if not any(is_type(hook["type"], name) for name in names)]


def refuse_names(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse options for a mere name, such as ``train_pipeline``, whose value has been taken over where it is read.

    mmengine replaces variables by their values when it parses, so that the option would reach nobody.

    Args:
        cfg: The config, before the options.
        options: What was given on the command line.

    Raises:
        HOCPError: If a name is among them; the text says which keys are read.
    """
    from mmengine.runner import Runner  # here, where it costs no other config a second

    for key in options:
        name, _, rest = key.partition(".")
        value = cfg.get(name)
        if not value or not isinstance(value, dict | list | tuple) or name in inspect.signature(Runner).parameters:
            continue
        places = [place for top in cfg if top != name for place in _places(cfg[top], value, top)]
        if places:
            instead = " and ".join(f"{place}.{rest}" if rest else place for place in places)
            raise HOCPError(f"config: {name} is only a name, whose value has been taken over; set {instead}.")


def _places(part: Any, value: Any, at: str) -> Iterator[str]:
    """Yield the dotted keys below a part of a config at which a value stands."""
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list | tuple) else ()
    for key, item in inner:
        if item == value:
            yield f"{at}.{key}"
        else:
            yield from _places(item, value, f"{at}.{key}")


def share_fold(cfg: Config, options: Mapping[str, Any]) -> None:
    """Hand a ``fold`` among the options on to every data set that has one; refuse folds that differ.

    mmengine replaces variables by their values when it parses, so that a new value of ``fold`` would reach nobody; and
    a network trained on one fold has seen the test people of another.

    Args:
        cfg: The config, changed in place.
        options: What was given on the command line.

    Raises:
        HOCPError: If the folds differ, ``fold`` is given twice, or no data set has one.
    """
    datasets = [(loader, dataset) for loader, dataset in _datasets(cfg) if "fold" in dataset]
    if "fold" in options:
        if not datasets:
            raise HOCPError(f"config: fold={options['fold']!r} needs a data set with folds, got none.")
        if any(key.endswith("dataset.fold") for key in options):
            raise HOCPError("config: give fold once, for all data sets, or for each of them, got both.")
        for _, dataset in datasets:
            dataset["fold"] = options["fold"]
    if len({dataset["fold"] for _, dataset in datasets}) > 1:
        folds = ", ".join(f"{loader} {dataset['fold']}" for loader, dataset in datasets)
        raise HOCPError(f"config: all data sets must read one fold, got {folds}; set --cfg-options fold=K.")
    if datasets:
        cfg.fold = datasets[0][1]["fold"]


def use_store(cfg: Config) -> None:
    """Put a store of face crops in the place of every data set of ours, where the config has a key ``store``.

    A store is made from one data set (``tools/prepare``). The options that say how a raw folder is read become what
    the store is expected to be prepared with (``expected``), the defaults of the raw data set included: a store of
    other labels is refused when it is opened.

    Args:
        cfg: The config, changed in place; ``store`` is the folder, below the working directory or absolute.

    Raises:
        MissingDataError: If there is no such folder.
        HOCPError: If no loader has a data set that a store can replace, or several classes of them.
    """
    store = cfg.get("store")
    if store is None:
        return
    if not isinstance(store, str | Path) or not Path(store).is_dir():
        raise MissingDataError(
            f"config: store={store!r} must be a folder of face crops; `python tools/prepare/<data set>.py` writes one."
        )
    from hocp_mm.datasets import AffectDataset, FaceCropDataset

    found = [
        (loader, dataset, _class_of(dataset.get("type"), cfg.get("default_scope")))
        for loader, dataset in _datasets(cfg)
    ]
    ours = [item for item in found if isinstance(item[2], type) and issubclass(item[2], AffectDataset)]
    if not ours:
        raise HOCPError(f"config: store={str(store)!r} needs a loader with a data set of hocp_mm, got none.")
    # Joined ones of two folders would become the same store twice.
    roots = {os.path.normpath(str(dataset.get("data_root"))) for _, dataset, _ in ours}
    replaced: set[str] = set()
    for loader, dataset, kind in ours:
        if issubclass(kind, FaceCropDataset):
            replaced.add((dataset.get("expected") or {}).get("dataset", kind.__name__))
            dataset["data_root"] = str(store)
            continue
        replaced.add(kind.__name__)
        kept = {name: value for name, value in dataset.items() if name in _KEPT}
        expected = _expected(loader, kind, dataset)
        dataset.clear()
        dataset.update(type=f"hocp_mm.{FaceCropDataset.__name__}", data_root=str(store), expected=expected, **kept)
    if len(roots) > 1:
        names = " and ".join(sorted(map(repr, roots)))
        raise HOCPError(f"config: a store holds one data set, got the folders {names} to replace.")
    if len(replaced) > 1:
        raise HOCPError(f"config: a store holds one data set, got {' and '.join(sorted(replaced))} to replace.")


def _datasets(cfg: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each data set of the loaders' configs, wrapped ones included, with the name of its loader."""
    for split in SPLITS:
        name = f"{split}_dataloader"
        for found in _below(cfg.get(name)):
            yield name, found


def _below(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, list | tuple):
        for item in config:
            yield from _below(item)
    elif isinstance(config, dict):
        for key in ("dataset", "datasets"):
            inner = config.get(key)
            yield from [inner] if isinstance(inner, dict) else [item for item in inner or () if isinstance(item, dict)]
            yield from _below(inner)


def _class_of(kind: Any, scope: str | None) -> Any:
    """Return what stands under ``type`` as a class, or None."""
    if not isinstance(kind, str):
        return kind
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.get(kind)


def _expected(loader: str, raw: type[Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a store must have been prepared with, defaults included.

    Raises:
        DataError: If the raw data set does not take its options.
    """
    options = {name: value for name, value in dataset.items() if name != "type" and name not in _KEPT}
    options |= {name: dataset[name] for name in _ASKED if name in dataset}
    try:
        asked = raw(**copy.deepcopy(options), lazy_init=True)  # lazy: reads no file
    except (TypeError, ValueError) as error:
        raise DataError(f"config: {loader}: {error}") from error
    shaping = {name: getattr(asked, name) for name in ("faces", "pixel_aspect") if hasattr(asked, name)}
    return {"dataset": raw.__name__, **asked.record_options(), **shaping}


def few(names: list[str], limit: int = 5) -> str:
    """Return the first names of a list, for a message; they may be those in a file."""
    shown = (shorten(visible(shorten(name, LONGEST_VALUE)), LONGEST_VALUE) for name in names[:limit])
    return ", ".join(shown) + (", …" if len(names) > limit else "")
