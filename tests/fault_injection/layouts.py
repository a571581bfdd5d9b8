"""What a layout under test is: a small set on disk, how it is loaded, and the damages done to copies of it.

A damage is a function that is given the root of a copy, harms it, and returns the files of which one must be named by
whoever notices. What must come of it is stated where it is registered.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Harm = Callable[[Path], Path | tuple[Path, ...] | None]
Expectation = Literal["refused", "harmless", "fewer", "unseen"]


@dataclass(frozen=True)
class Damage:
    """One way to harm a set, and what must come of it.

    Attributes:
        name: A sentence about the data.
        harm: See the module.
        expects: ``"refused"``: one `HOCPError` names the file. ``"harmless"``: every pair of picture and label is
            that of the undamaged set. ``"fewer"``: some frames do not count, all others are those of the undamaged
            set, and the log says so. ``"unseen"``: nothing in the files tells that they are wrong.
        records: Names of the records that may be left out or lose frames; None means the whole set.
        options: Options of the data set instead of those of the layout.
        folder: Name of the root of the copy.
        found: Whether the check finds it; None follows from ``expects``.
    """

    name: str
    harm: Harm
    expects: Expectation
    records: frozenset[str] | None
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = "set"
    found: bool | None = None


@dataclass
class Layout:
    """A layout under test.

    Attributes:
        name: For the table.
        write: Writes the small set.
        options: Keyword arguments of the training part but for ``data_root`` and ``pipeline``, with ``type``.
        val_options: What is different for the validation part.
        victim: Name of the record that damages harm.
        longest: Frames of the longest record.
        damages: All of them, in the order in which they were registered.
    """

    name: str
    write: Callable[[Path], Any]
    options: dict[str, Any]
    val_options: dict[str, Any]
    victim: str
    longest: int
    damages: list[Damage] = field(default_factory=list)

    def refused(self, name: str, **stated: Any) -> Callable[[Harm], Harm]:
        """Register a damage that must be refused."""
        return self._register(name, "refused", stated)

    def harmless(self, name: str, **stated: Any) -> Callable[[Harm], Harm]:
        """Register a change that must not change any pair."""
        return self._register(name, "harmless", stated)

    def fewer(self, name: str, **stated: Any) -> Callable[[Harm], Harm]:
        """Register a damage that takes frames away, and is told."""
        return self._register(name, "fewer", stated)

    def unseen(self, name: str, **stated: Any) -> Callable[[Harm], Harm]:
        """Register a damage that no reader of the files can see."""
        return self._register(name, "unseen", stated)

    def _register(self, name: str, expects: Expectation, stated: dict[str, Any]) -> Callable[[Harm], Harm]:
        whole = stated.pop("whole", False)
        records = stated.pop("records", None if whole else (self.victim,))

        def add(harm: Harm) -> Harm:
            if any(damage.name == name for damage in self.damages):
                raise ValueError(f"{self.name}: two damages are named {name!r}.")
            kept = None if records is None else frozenset(records)
            self.damages.append(Damage(name, harm, expects, kept, **stated))
            return harm

        return add
