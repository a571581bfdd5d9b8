"""Scores with what they are worth: intervals, baselines on the same frames, and each group by itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hocp_mm.errors import DataError
from hocp_mm.evaluation.baselines import WIDTH_S, best_constants, can_average, moving_average
from hocp_mm.evaluation.intervals import CONFIDENCE, KEYS, LEAST_UNITS, Interval, bootstrap, scores_of, sum_frames
from hocp_mm.structures import AffectTimeline, same_actor
from hocp_mm.system.files import write_rows

GROUPS = "groups"
"""Folder of the tables of groups, beside those of the videos."""
_VIDEOS = "videos"


class Owner(NamedTuple):
    """Whom a video is of.

    Attributes:
        source: Data set, None if it does not say.
        subject: Whom splits keep together, empty if nobody knows.
        groups: What else it belongs to: ``{"culture": "C2"}``.
    """

    source: str | None = None
    subject: str = ""
    groups: Mapping[str, str] = {}  # never changed


@dataclass(frozen=True)
class Row:
    """Scores of some videos; each dict has keys ``{ccc,pcc,rmse,sagr}_{valence,arousal,mean}``, or is empty.

    Attributes:
        videos: Videos with a valid frame.
        frames: Valid frames.
        units: How many people, or videos, were drawn from.
        scores: Of the predictions.
        intervals: Of these.
        constant: Of the best constant (see `hocp_mm.evaluation.baselines`).
        average: Of the moving average.
        changes: Intervals of moving average minus network.
    """

    videos: int
    frames: int
    units: int
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    constant: Mapping[str, float]
    average: Mapping[str, float]
    changes: Mapping[str, Interval]

    def more(self) -> dict[str, float]:
        """Return all but the scores themselves, by name; an interval or a score that does not exist has no name."""
        ends = {
            f"{key}{name}_{end}": getattr(interval, end)
            for name, intervals in (("", self.intervals), ("_change", self.changes))
            for key, interval in intervals.items()
            for end in ("low", "high")
        }
        others = {"constant": self.constant, "moving_average": self.average}
        values = {f"{key}_{name}": value for name, scores in others.items() for key, value in scores.items()}
        return {name: value for name, value in (ends | values).items() if not np.isnan(value)}


@dataclass(frozen=True)
class ScoreReport:
    """What a test found.

    Attributes:
        whole: All videos together.
        unit: What was drawn from: ``"subjects"``, ``"videos"`` where no subject is told, or both.
        why_none: Why there is no interval at all, empty if that depends on the score.
        groups: Rows by kind (``"subject"``, ``"culture"``) and name.
        by_video: Row of each video that has a valid frame.
        owners: Whom each video is of.
    """

    whole: Row
    unit: str
    why_none: str
    groups: Mapping[str, Mapping[str, Row]]
    by_video: Mapping[str, Row]
    owners: Mapping[str, Owner]

    def text(self) -> str:
        """Lay out scores, intervals and baselines, then CCC of each group of a few."""
        whole = self.whole
        lines = [
            f"{whole.frames} valid frames of {whole.videos} videos; intervals of {100 * CONFIDENCE:.0f} % over "
            f"{whole.units} {self.unit}",
            f"{'':<14}{'network':>8}  {'interval':<17}{'constant':>9}{'average':>9}  {'average - network':<17}",
        ]
        for key in KEYS:
            cells = f"{whole.scores[key]:8.3f}  {_shown(whole.intervals[key]):<17}{whole.constant[key]:9.3f}"
            if whole.average:
                cells += f"{whole.average[key]:9.3f}  {_shown(whole.changes[key], '+'):<17}"
            measure, _, value = key.partition("_")
            lines.append(f"{measure.upper():<5}{value:<9}{cells.rstrip()}")
        lines.append(
            "constant: the best one, chosen on these frames"
            + (f"; average: the network's, over {WIDTH_S:g} s" if whole.average else "; frames too few for an average")
        )
        if _VIDEOS in self.unit and not self.why_none:
            lines.append("interval: too narrow if one person is in several videos, as nobody says who is in them")
        lines += [f"no interval: {text}" for text in self.reasons()]
        for kind, rows in self.groups.items():
            if kind not in ("subject", "person") and len(rows) > 1:
                lines += ["", *_group_lines(kind, rows)]
        return "\n".join(lines)

    def reasons(self) -> list[str]:
        """Return why intervals are missing, each reason once with the scores that it is true of."""
        if self.why_none:
            return [self.why_none]
        why: dict[str, list[str]] = {}
        for name, intervals in (("", self.whole.intervals), ("change of ", self.whole.changes)):
            for key, interval in intervals.items():
                if interval.why_none:
                    why.setdefault(interval.why_none, []).append(f"{name}{key}")
        return [f"{', '.join(keys)}: {reason}" for reason, keys in why.items()]

    def write_groups(self, out_dir: Path) -> None:
        """Write one table for each kind of groups into ``out_dir/groups``."""
        for kind, rows in self.groups.items():
            names = [*KEYS, *more_names(average=bool(self.whole.average))]
            table = [["group", "videos", "valid_frames", "units", *names]]
            for name, row in rows.items():
                values = {**row.scores, **row.more()}
                table.append([name, str(row.videos), str(row.frames), str(row.units), *cells(values, names)])
            write_rows(out_dir / GROUPS / f"{kind}.csv", table, follow=False)


def more_names(average: bool, intervals: bool = True) -> list[str]:
    """Return the names that `Row.more` may have, in order."""
    ends = [f"_{end}" for end in ("low", "high")] if intervals else []
    endings = [*ends, "_constant"]
    if average:
        endings += [*(f"_change{end}" for end in ends), "_moving_average"]
    return [f"{key}{ending}" for ending in endings for key in KEYS]


def cells(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Return the cells of a CSV file, empty where there is no value."""
    return [f"{values[name]:.6g}" if name in values else "" for name in names]


def report(timelines: Sequence[AffectTimeline], owners: Mapping[str, Owner], resamples: int) -> ScoreReport:
    """Score all videos, and each group of them, with intervals and baselines.

    Videos of one subject are drawn together. Where a data set names no subject, its videos are drawn; where it names
    some, there is no interval, as nobody knows who is in the others.

    Args:
        timelines: Timelines with targets.
        owners: Whom each video is of.
        resamples: How many sets are drawn for an interval.

    Returns:
        The report.

    Raises:
        DataError: If no frame is valid.
    """
    used = [t for t in timelines if t.target is not None and t.valid is not None and t.valid.any()]
    if not used:
        raise DataError(f"AffectMetric: no valid frame in {len(timelines)} videos, so there is nothing to score.")
    sums, average = _sum_videos(used)
    own = [owners.get(t.video, Owner()) for t in used]
    units, unit, why_none = _units(used, own)
    if not why_none and (count := len(np.unique(units))) < LEAST_UNITS:
        why_none = f"{count} {unit} are too few, {LEAST_UNITS} are needed"
    whole = _row(sums, range(len(used)), units, average, why_none, resamples)
    groups = {
        kind: {name: _row(sums, rows, units, average, why_none, resamples) for name, rows in members.items()}
        for kind, members in _members(own).items()
    }
    videos = {t.video: _row(sums, [k], units, average, "one video", resamples) for k, t in enumerate(used)}
    return ScoreReport(whole, unit, why_none, groups, videos, dict(owners))


def _sum_videos(timelines: Sequence[AffectTimeline]) -> tuple[Tensor, bool]:
    """Return the sums of each video over network, moving average if there is one, and constant."""
    truth = [_valid(t, t.target) for t in timelines]
    mean, sign = (torch.from_numpy(value) for value in best_constants(np.concatenate(truth)))
    average, rows = can_average(timelines), []
    for timeline, target in zip(timelines, map(torch.from_numpy, truth), strict=True):
        preds = [torch.from_numpy(_valid(timeline, timeline.pred))]
        if average:
            preds.append(torch.from_numpy(_valid(timeline, moving_average(timeline))))
        sums = sum_frames([*preds, mean.expand_as(target)], target, mean)
        sums[:, -1] = (target.sign() == sign).sum(0)  # another constant is the best one here
        rows.append(sums)
    return torch.stack(rows), average


def _valid(timeline: AffectTimeline, values: "np.ndarray | None") -> "np.ndarray":
    assert values is not None  # the caller's: timelines with a target
    return values[timeline.valid].astype(np.float64)


def _units(timelines: Sequence[AffectTimeline], owners: Sequence[Owner]) -> tuple["np.ndarray", str, str]:
    """Return the number of each video's unit, what units are, and why none can be drawn."""
    known: dict[str | None, set[bool]] = {}
    for owner in owners:
        known.setdefault(owner.source, set()).add(bool(owner.subject))
    names = [
        (owner.source, True, same_actor(owner.subject)) if owner.subject else (owner.source, False, timeline.video)
        for timeline, owner in zip(timelines, owners, strict=True)
    ]
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    units = np.array([number[name] for name in names])
    # A set that does not know its people may name each video after itself.
    told = any(owner.subject not in ("", t.video) for t, owner in zip(timelines, owners, strict=True))
    unit = _VIDEOS if not told else "subjects" if all(owner.subject for owner in owners) else f"subjects and {_VIDEOS}"
    mixed = [source for source, flags in known.items() if len(flags) > 1]
    if not mixed:
        return units, unit, ""
    missing = sum(owner.source in mixed and not owner.subject for owner in owners)
    why = f"{missing} of {len(owners)} videos name no subject, so they may be of one that others name"
    return units, unit, why


def _members(owners: Sequence[Owner]) -> dict[str, dict[str, list[int]]]:
    """Return the numbers of the videos in each group, by kind and name, sorted."""
    several = len({owner.source for owner in owners}) > 1
    members: dict[str, dict[str, list[int]]] = {}
    spelled: dict[tuple[str, str], str] = {}
    for row, owner in enumerate(owners):
        front = f"{owner.source}/" if several and owner.source else ""
        named = {kind: f"{front}{name}" for kind, name in {"subject": owner.subject, **owner.groups}.items() if name}
        for kind, name in (named | ({"source": owner.source} if several and owner.source else {})).items():
            own = spelled.setdefault((kind, same_actor(name)), name)
            members.setdefault(kind, {}).setdefault(own, []).append(row)
    return {kind: dict(sorted(rows.items())) for kind, rows in members.items()}


def _row(sums: Tensor, rows: Sequence[int], units: "np.ndarray", average: bool, why_none: str, resamples: int) -> Row:
    """Score some videos."""
    chosen = torch.as_tensor(list(rows))
    own = sums[chosen]
    numbers, place = np.unique(units[list(rows)], return_inverse=True)
    by_unit = torch.zeros(len(numbers), *sums.shape[1:], dtype=sums.dtype).index_add_(0, torch.from_numpy(place), own)
    scores = [dict(zip(KEYS, values, strict=True)) for values in scores_of(own.sum(0)).tolist()]
    if why_none:
        intervals = [Interval(np.nan, np.nan, why_none)] * len(KEYS)
        changes = intervals if average else []
    else:
        intervals, changes = bootstrap(_without_constant(by_unit), resamples)
    return Row(
        videos=len(rows),
        frames=int(own[:, 0, 0].sum()),
        units=len(numbers),
        scores=scores[0],
        intervals=dict(zip(KEYS, intervals, strict=True)),
        constant=scores[-1],
        average=scores[1] if average else {},
        changes=dict(zip(KEYS, changes, strict=True)) if changes else {},
    )


def _without_constant(sums: Tensor) -> Tensor:
    return torch.cat([sums[..., :3], sums[..., 3:].unflatten(-1, (5, -1))[..., :-1].flatten(-2)], dim=-1)


def _shown(interval: Interval, sign: str = "") -> str:
    return "-" if interval.why_none else f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _group_lines(kind: str, rows: Mapping[str, Row]) -> Iterator[str]:
    yield (
        f"{kind:<14}{'videos':>7}" + "".join(f"  CCC {value:<23}" for value in ("valence", "arousal", "mean")).rstrip()
    )
    for name, row in rows.items():
        values = [f"{row.scores[key]:.3f} ({_shown(row.intervals[key])})" for key in KEYS[:3]]
        yield f"{name:<14.14}{row.videos:>7}" + "".join(f"  {value:<27}" for value in values).rstrip()
