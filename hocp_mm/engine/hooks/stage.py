"""What one stage of training is, and which parameters it is about."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from hocp_mm.layers import name_matcher

WHERE = "StagedUnfreezeHook"


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        begin: First epoch (or iteration) of the stage, from 0.
        train: ``'all'``, or patterns on parameter names; all other parameters are frozen. Parameters that did not
            require a gradient when training began stay frozen in every stage.
        norm_eval: Keep the running statistics of the batch norms that the stage freezes (of all where it trains
            everything), and normalise with them.
        lr_mult: Factor on the scheduled learning rate: one number, or a mapping from patterns on parameter names to
            numbers (the first pattern that matches counts, 1 where none does).

    Raises:
        ValueError: If a field is out of range, or a pattern is no regular expression.
        TypeError: If a field is of another kind.
    """

    begin: int
    train: str | Sequence[str] = "all"
    norm_eval: bool = False
    lr_mult: float | Mapping[str, float] = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.begin, int) or isinstance(self.begin, bool) or self.begin < 0:
            raise ValueError(f"{WHERE}: begin must be an integer from 0, got {self.begin!r}.")
        if not isinstance(self.norm_eval, bool):
            raise TypeError(f"{WHERE}: norm_eval must be True or False, got {self.norm_eval!r}.")
        if not isinstance(self.train, (str, Sequence)):
            raise TypeError(f"{WHERE}: train must be 'all' or patterns on parameter names, got {self.train!r}.")
        _check_patterns(self.patterns, f"train={self.train!r}")
        factors = self.lr_mult.values() if isinstance(self.lr_mult, Mapping) else [self.lr_mult]
        if isinstance(self.lr_mult, Mapping):
            _check_patterns(self.lr_mult, f"lr_mult={self.lr_mult!r}")
        for factor in factors:
            number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
            if not number or not 0 < factor < math.inf:
                raise ValueError(
                    f"{WHERE}: lr_mult must be positive and finite, got {factor!r} (to freeze, leave it out of train)."
                )

    @property
    def patterns(self) -> list[str]:
        """Patterns of the parameters that train; one that matches every name for ``'all'``."""
        if self.train == "all":
            return [""]
        return [self.train] if isinstance(self.train, str) else list(self.train)

    def trained(self, model: nn.Module, free: Iterable[str]) -> set[str]:
        """Return the names of the parameters that train in this stage.

        Args:
            model: The network.
            free: Names of the parameters that may train.

        Returns:
            Those among ``free`` that a pattern matches.

        Raises:
            ValueError: If a pattern matches no parameter, or only such as may not train.
        """
        free = set(free)
        trained: set[str] = set()
        for pattern in self.patterns:
            matches = name_matcher(pattern)
            names = {name for name, _ in model.named_parameters() if matches(name)}
            if not names:
                raise ValueError(
                    f"{WHERE}: each pattern in train must match a parameter, got {pattern!r} (stage from {self.begin})."
                )
            if names.isdisjoint(free):
                raise ValueError(
                    f"{WHERE}: each pattern in train must match a parameter that may train, got {pattern!r}: the "
                    f"{len(names)} it matches, such as '{min(names)}', were frozen when training began "
                    f"(stage from {self.begin})."
                )
            trained |= names & free
        return trained

    def factors(self, model: nn.Module) -> dict[str, float]:
        """Return the factor on the learning rate of every parameter, by name.

        Args:
            model: The network.

        Returns:
            Factors, frozen parameters included.

        Raises:
            ValueError: If a pattern in ``lr_mult`` matches no parameter.
        """
        names = [name for name, _ in model.named_parameters()]
        if not isinstance(self.lr_mult, Mapping):
            return dict.fromkeys(names, float(self.lr_mult))
        rules = [(name_matcher(pattern), factor) for pattern, factor in self.lr_mult.items()]
        for (matches, _), pattern in zip(rules, self.lr_mult, strict=True):
            if not any(map(matches, names)):
                raise ValueError(
                    f"{WHERE}: each pattern in lr_mult must match a parameter, got {pattern!r} "
                    f"(stage from {self.begin})."
                )
        return {name: next((float(f) for matches, f in rules if matches(name)), 1.0) for name in names}


def read_stages(stages: Any) -> list[Stage]:
    """Turn the mappings of a config into stages.

    Args:
        stages: Sequence of mappings with the fields of :class:`Stage`.

    Returns:
        The stages; the first begins at 0, and ``begin`` increases.

    Raises:
        ValueError: If a mapping has an unknown field or no ``begin``, or the stages are not in order.
        TypeError: If ``stages`` is no sequence of mappings.
    """
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Mapping) for stage in stages):
        raise TypeError(f"{WHERE}: stages must be a list of dicts, got {stages!r}.")
    known = [field.name for field in fields(Stage)]
    for stage in stages:
        unknown = sorted(set(stage) - set(known))
        if unknown or "begin" not in stage:
            raise ValueError(
                f"{WHERE}: a stage must have begin and may have {', '.join(known[1:])}, got {dict(stage)!r}"
                + (f" (unknown: {', '.join(unknown)})." if unknown else ".")
            )
    read = [Stage(**stage) for stage in stages]
    begins = [stage.begin for stage in read]
    if not begins or begins[0] != 0 or begins != sorted(set(begins)):
        raise ValueError(f"{WHERE}: stages must begin at 0 and increase, got {begins}.")
    return read


def _check_patterns(patterns: Iterable[Any], what: str) -> None:
    patterns = list(patterns)
    if not patterns:
        raise ValueError(f"{WHERE}: patterns must not be empty, got {what}.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"{WHERE}: patterns must be regular expressions, got {what} ({error}).") from error
