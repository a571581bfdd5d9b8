"""The account of a weight transfer: loading ends in one, never in a warning."""

from dataclasses import dataclass, field

from hocp_mm.errors import CheckpointError
from hocp_mm.system.refusals import LONGEST_LINE, shorten, visible

LONGEST_NAME = 150  # that is shown
MUCH = 0.3
"""Relative error of features above which a network is hardly itself."""


def _listed(names: list[str], most: int = 5) -> str:
    """List names from a file, which may be long or hold commands to a terminal."""
    text = ", ".join(shorten(visible(shorten(name, LONGEST_NAME)), LONGEST_NAME) for name in names[:most])
    return text + (f", … ({len(names) - most} more)" if len(names) > most else "")


@dataclass
class LoadReport:
    """What happened to every tensor of a model and of the file it was loaded from.

    Attributes:
        source: File or timm name the weights came from.
        copied: Tensors of the model taken over as they are.
        decomposed: HO-CP layers fitted to a dense kernel, with the relative error of the fit.
        reconstructed: HO-CP layers fitted on pictures to the outputs of a dense one, with the relative error there.
        stages: Relative error of the features of each stage on pictures that were kept apart.
        judged: Number of these pictures.
        inflated: Dense 3-D layers that took a 2-D kernel.
        padded: Kernels of the source that got input channels of zeros, with both numbers of channels.
        transducted: Temporal factors that the source does not have; they have their initial values.
        added: Tensors of modules that are the identity until trained, which the source does not have.
        kept: Tensors of the model that were to keep their own initialisation.
        missing: Tensors of the model that the source should have had.
        mismatched: Tensors whose shapes differ, with both shapes.
        unexpected: Tensors of the source that the model has no place for.
        classifier: Tensors of the source's own classifier or head, left out on purpose.
        cut_off: Tensors of layers behind the last stage that the model runs, left out on purpose.
        notes: What was chosen or renamed in the source.
        nearest: For unexpected tensors, missing ones of the same shape, those with the likest names first.
    """

    source: str
    copied: list[str] = field(default_factory=list)
    decomposed: dict[str, float] = field(default_factory=dict)
    reconstructed: dict[str, float] = field(default_factory=dict)
    stages: list[float] = field(default_factory=list)
    judged: int = 0
    inflated: list[str] = field(default_factory=list)
    padded: list[str] = field(default_factory=list)
    transducted: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    classifier: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nearest: dict[str, list[str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True when nothing is missing, mismatched or unexpected."""
        return not (self.missing or self.mismatched or self.unexpected)

    def __str__(self) -> str:
        """Say it in one line, then a line per decomposed layer and per kind of exception."""
        errors = self.decomposed.values()
        span = f" (relative error {min(errors):.3f} to {max(errors):.3f})" if errors else ""
        lines = [
            f"LoadReport of {self.source}: {len(self.copied)} tensors copied, "
            f"{len(self.decomposed)} kernels decomposed{span}, {len(self.transducted)} temporal factors and "
            f"{len(self.added)} tensors of identity modules added, "
            f"{len(self.missing)} missing, {len(self.mismatched)} mismatched, {len(self.unexpected)} unexpected."
        ]
        lines += [f"  note: {shorten(note, LONGEST_LINE)}." for note in self.notes]
        lines += [f"  {name}: relative error {error:.4f}" for name, error in self.decomposed.items()]
        for kind in ("inflated", "padded", "kept", "missing", "mismatched", "unexpected", "classifier", "cut_off"):
            if names := getattr(self, kind):
                lines.append(f"  {kind.replace('_', ' ')}: {_listed(names)}")
        lines += [f"  of the same shape as {_listed([name])}: {_listed(n)}" for name, n in self.nearest.items()]
        lines += [f"  {name}: relative error of its output {error:.4f}" for name, error in self.reconstructed.items()]
        if self.stages:
            errors_of_stages = ", ".join(f"{error:.3f}" for error in self.stages)
            lines.append(
                f"  relative error of the stages' features on {self.judged} other pictures: {errors_of_stages}"
            )
        return "\n".join(map(visible, lines))

    @property
    def warning(self) -> str:
        """What to do where much of what was trained is lost; empty otherwise."""
        worst = max(self.stages, default=0.0)
        if worst <= MUCH:
            return ""
        return (
            f"{self.source}: {100 * worst:.0f} % of what the dense network computes is lost in a stage; give it a "
            "larger budget, or calibrate with more pictures like those of training."
        )

    def raise_if_incomplete(self, *, loads: bool = True) -> None:
        """Refuse a partial transfer.

        Args:
            loads: Whether the source holds a single weight for the model.

        Raises:
            CheckpointError: If :attr:`complete` is False; names the source and the first keys of each kind.
        """
        if not self.complete:
            kinds = [
                f"{len(n)} {k} ({_listed(n)})"
                for k in ("missing", "mismatched", "unexpected")
                if (n := getattr(self, k))
            ]
            if self.nearest:
                kinds.append(f"of the same shape: {_listed([f'{n} as {m[0]}' for n, m in self.nearest.items()], 3)}")
            hint = "another architecture? pass allow_missing=True to load what fits"
            raise CheckpointError(
                f"checkpoint: every tensor must fit the model, got {'; '.join(kinds)} in {self.source} "
                f"({hint if loads else 'another architecture? not one weight fits'})."
            )
