"""The data sets of a config's loaders, wrapped and joined ones included, built so that all their faults are known."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import import_modules_from_strings

from hocp_mm.datasets.records.dataset import AffectDataset
from hocp_mm.datasets.records.faults import Fault, incomplete_text
from hocp_mm.errors import HOCPError
from hocp_mm.system.refusals import user_error


@dataclass(frozen=True)
class PartConfig:
    """The description of one data set.

    Attributes:
        name: Name of the part.
        split: ``"train"``, ``"val"`` or ``"test"``.
        config: What it is built from; reads all files at `build_part` and skips what is wrong.
        scope: The config's ``default_scope``.
        imports: The config's ``custom_imports``.
    """

    name: str
    split: str
    config: dict[str, Any]
    scope: str | None = None
    imports: dict[str, Any] | None = None

    @property
    def root(self) -> str:
        """Folder of the data set, or the name of the part if it has none."""
        return str(self.config.get("data_root", self.name))

    @property
    def type_name(self) -> str:
        """Name of the class of the data set."""
        kind = self.config["type"]
        return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


@dataclass(frozen=True)
class BuiltPart:
    """A data set that was built, or why it was not.

    Attributes:
        dataset: The data set, or None.
        faults: What it found wrong.
        notes: Its other warnings.
        refusal: Why the config's options cannot be used, empty if they can.
    """

    dataset: AffectDataset | None
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str = ""


def build_part(part: PartConfig) -> BuiltPart:
    """Build a data set and read its files.

    Args:
        part: Its description.

    Returns:
        The data set with all its faults; a fault of the set as a whole has the kind ``"set"``.
    """
    if part.imports:
        import_modules_from_strings(**part.imports)
    with _quiet():
        try:
            with DefaultScope.overwrite_default_scope(part.scope):
                dataset: AffectDataset = DATASETS.build(part.config)
        except Exception as error:  # whatever a constructor says about its options
            if cause := user_error(error):  # or about files that it opens already
                return BuiltPart(None, (Fault(part.root, str(cause), "set"),))
            plain = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return BuiltPart(None, refusal=plain)
        try:
            dataset.full_init()
        except HOCPError as error:
            text = str(error)
            if dataset.faults:  # which are told one by one, so that nothing could be used is what is left to say
                text = f"{incomplete_text(dataset.name, len(dataset.faults))}; no record can be used."
            return BuiltPart(None, (Fault(part.root, text, "set"), *dataset.faults), tuple(dataset.notes))
    return BuiltPart(dataset, tuple(dataset.faults), tuple(dataset.notes))


def samples_by_record(dataset: AffectDataset) -> dict[int, list[int]]:
    """Return the numbers of the samples, clips or windows, of each row of the data set's table."""
    groups: dict[int, list[int]] = {}
    for index in range(len(dataset)):
        # The small item that names the record; to fetch the record for every window would take minutes.
        groups.setdefault(BaseDataset.get_data_info(dataset, index)["row"], []).append(index)
    return groups


@contextmanager
def _quiet() -> Iterator[None]:
    """Do not print what a data set logs: the report tells it."""
    logger = MMLogger.get_current_instance()
    before = logger.handlers
    quiet: list[logging.Handler] = [logging.NullHandler()]
    logger.handlers = quiet
    try:
        yield
    finally:
        logger.handlers = before


def part_configs(cfg: Config, splits: Sequence[str]) -> list[PartConfig]:
    """Find the data sets of the loaders, wrapped and joined ones included.

    Args:
        cfg: Config with ``{train,val,test}_dataloader``.
        splits: Loaders to look at; one that the config does not have is passed over.

    Returns:
        One description per data set, with ``on_fault="skip"``.

    Raises:
        HOCPError: If there is no loader, or a data set is none of this package.
    """
    found: list[PartConfig] = []
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        leaves = [] if loader is None else _leaves(copy.deepcopy(loader["dataset"]))
        for number, leaf in enumerate(leaves, start=1):
            plain = leaf.to_dict() if hasattr(leaf, "to_dict") else dict(leaf)
            name = split if len(leaves) == 1 else f"{split} {number}"
            part = PartConfig(name, split, plain, cfg.get("default_scope"), cfg.get("custom_imports"))
            _require_own(part)
            found.append(part)
            plain.update(on_fault="skip", lazy_init=True)
    if not found:
        raise HOCPError(f"check: the config must have one of {', '.join(f'{split}_dataloader' for split in splits)}.")
    return found


def _leaves(config: Any) -> list[Any]:
    """Return the data sets inside of wrappers, in order."""
    if isinstance(config, list | tuple):
        return [leaf for item in config for leaf in _leaves(item)]
    inner = [config[key] for key in ("dataset", "datasets") if isinstance(config.get(key), dict | list | tuple)]
    return [leaf for item in inner for leaf in _leaves(item)] if inner else [config]


def _require_own(part: PartConfig) -> None:
    with DefaultScope.overwrite_default_scope(part.scope):
        kind = part.config.get("type")
        found: Any = DATASETS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(found, type) and issubclass(found, AffectDataset)):
        raise HOCPError(
            f"check: {part.split}_dataloader must hold data sets of hocp_mm, which know their records, got {kind!r}."
        )
