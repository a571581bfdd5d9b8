"""Start a video network from an image network."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner, find_latest_checkpoint
from torch import Tensor, nn

from hocp_mm.checkpoints import (
    DecompositionCache,
    KnownWeights,
    LoadReport,
    Weights,
    check_timm_name,
    classifier_prefixes,
    download_timm_weights,
    follow_ranks_,
    known_weights,
    load_image_weights_,
    load_stock_weights_,
    names_file,
    read_checkpoint,
    reading_once,
    stock_names,
    unwrap_state_dict,
)
from hocp_mm.checkpoints.affect_networks import AFFECT
from hocp_mm.datasets.affectnet.rows import EXPRESSIONS
from hocp_mm.engine.calibration_pictures import training_pictures
from hocp_mm.engine.hooks.rank_pruning import match_
from hocp_mm.engine.wrapping import rewrap_, unwrapped
from hocp_mm.errors import CheckpointError, HOCPError, MissingDataError, UnknownModelError
from hocp_mm.layers.rank_matching import match_ranks_
from hocp_mm.layers.selection import Patterns
from hocp_mm.models.heads import AffectHead
from hocp_mm.registry import HOOKS

_BACKBONE = "backbone."
_CALIBRATION = {"batches": 8, "pictures": 128, "distill": 0}
_LEAST = {"batches": 2, "pictures": 1, "distill": 0}
_KNOWN_CLASSES = (7, 8)  # AffectNet's expressions without contempt, or all; other numbers mean other classes


@HOOKS.register_module()
class TransductionHook(Hook):
    """Fill the network with 2-D weights before training: decompose dense kernels, keep temporal factors at their delta.

    Runs once before training starts, on rank 0, and broadcasts the result. Does nothing when the run resumes from or
    loads a checkpoint (``load_from``), which then holds everything; the model takes its ranks. ``resume=True`` that
    finds none is a fresh start.

    Args:
        source: One of

            - ``'timm'``: the pretrained weights of the backbone's own timm model;
            - a timm model, such as ``'resnet50.a1_in1k'``: its pretrained weights, for the backbone;
            - a file (``.safetensors``, ``.pth``) with the weights of an image network, for the backbone;
            - the file of a known affect network (see `hocp_mm.checkpoints.affect_networks`), for its backbone and,
              as far as they take its features, for the layers of an ``AffectHead``;
            - the checkpoint of a static stage, for the whole recogniser: a file that shares names with it outside
              the backbone. Layers get as many components as they have there.
        seed: Of the decompositions.
        allow_missing: Load what fits, if there is anything, instead of refusing an incomplete transfer.
        cache: Keep decompositions on disk, and take them from there the next time
            (:class:`hocp_mm.checkpoints.DecompositionCache`).
        keep: Patterns on names of tensors that keep their own initialisation on purpose, in the names of what is
            filled: of the recogniser for a static stage, else of the backbone.
        calibrate: Put dense weights into CP form by what the network computes on clips of the training loader:
            ``dict(batches=8, pictures=128, distill=0)``. One batch in four is kept to judge by, and the report ends
            in the error of each stage's features on it; ``distill`` is a number of steps in which all layers are
            adjusted to each other (:func:`hocp_mm.layers.distill_`). None looks at the kernels alone, as does a source
            in CP form, which is what it was made to be. For a `TimmHOCPBackbone`.
        budget: With ``calibrate``: parameters of the CP layers together, as a part of those of the dense ones, in
            (0, 1]; ranks go where errors cost most. None keeps the backbone's ranks.

    Attributes:
        report: The account of the transfer, on rank 0 and after it happened.

    Raises:
        MissingDataError: If ``source`` names a file that does not exist.
        UnknownModelError: If ``source`` is neither a file nor a model of timm.
        ValueError: If ``calibrate`` or ``budget`` is none of these.
    """

    # Before EMAHook copies the model.
    priority = "HIGH"

    def __init__(
        self,
        source: str,
        seed: int = 0,
        allow_missing: bool = False,
        cache: bool = True,
        keep: Patterns = (),
        calibrate: Mapping[str, int] | None = None,
        budget: float | None = None,
    ) -> None:
        _check_source(source)
        _check_calibration(calibrate, budget)
        self.calibrate, self.budget = calibrate, budget
        self._is_file = names_file(source)
        self.source, self.seed, self.allow_missing, self.cache = source, seed, allow_missing, cache
        self.keep = [keep] if isinstance(keep, str) else list(keep)
        self.report: LoadReport | None = None
        self._done = False
        self._wrapped: list[nn.Parameter] = []

    def before_run(self, runner: Runner) -> None:
        """Load the weights, if this run trains from the start."""
        # What the distributed wrapper knows: stages of training that begin later may freeze some of them.
        self._wrapped = [parameter for parameter in runner.model.parameters() if parameter.requires_grad]
        if self._done or not isinstance(runner._train_loop, BaseLoop):  # a test or validation run
            return
        self._done = True
        if _starts_from_checkpoint(runner):
            runner.logger.info("TransductionHook: skipped, the run starts from a checkpoint.")
            return
        model = unwrapped(runner.model)
        _initialize_now_(model)
        before = _shapes(model)
        failure: Exception | None = None
        if dist.is_main_process():
            try:
                self.report = self.load(model, runner.logger.info, lambda: self._pictures(runner, model))
                runner.logger.info(str(self.report))
                if self.report.warning:
                    print_log(self.report.warning, runner.logger, logging.WARNING)
            except Exception as error:  # whatever it is, the other ranks must hear of it
                failure = error
        _raise_everywhere(failure)
        if _share_ranks(model) != before:
            rewrap_(runner)  # the wrapper was made for the old shapes
        for tensor in model.state_dict().values():
            if isinstance(tensor, Tensor):  # a module may have other state, too
                dist.broadcast(tensor, src=0)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Give the model the ranks of the checkpoint, which are not the config's where a budget or a source chose them.

        Raises:
            CheckpointError: If they cannot be those of the model.
        """
        try:
            ranks = match_(runner, unwrap_state_dict(checkpoint, str(runner._load_from)), self._wrapped)
        except (ValueError, NotImplementedError) as error:
            raise CheckpointError(f"checkpoint: ranks must fit the model, got {runner._load_from} ({error})") from error
        if ranks:
            changes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in ranks.items())
            runner.logger.info(f"TransductionHook: layers take the ranks of the checkpoint: {changes}.")

    def before_train(self, runner: Runner) -> None:
        """Give the model its ``init_weights`` back; the Runner has called it by now."""
        model = unwrapped(runner.model)
        if vars(model).get("init_weights") is _already_initialized:
            del vars(model)["init_weights"]

    def _pictures(self, runner: Runner, model: nn.Module) -> list[Tensor]:
        options = self._calibration()
        return training_pictures(runner.train_dataloader, model, options["batches"], options["pictures"], self.seed)

    def _calibration(self) -> dict[str, int]:
        return {**_CALIBRATION, **(self.calibrate or {})}

    def load(
        self,
        model: nn.Module,
        progress: Callable[[str], None] | None = None,
        pictures: Callable[[], Sequence[Tensor]] = list,
    ) -> LoadReport:
        """Fill a model from the source.

        Args:
            model: A recogniser with a ``backbone``; changed.
            progress: Called with a line of text for each layer that is decomposed now, and with one for all those
                whose decomposition was kept.
            pictures: Asked for images to calibrate on, in batches ``[B, C, H, W]``, where they are needed.

        Returns:
            The account of the transfer.

        Raises:
            CheckpointError: If the weights cannot be read or do not fit.
        """
        cache = DecompositionCache() if self.cache else None
        options = {
            "seed": self.seed,
            "allow_missing": self.allow_missing,
            "keep": self.keep,
            "cache": cache,
            "progress": _fits_only(progress, cache) if self.calibrate is None else progress,
        }
        before = _shapes(model)
        with reading_once():
            report = self._load(model, options, pictures)
        if progress is not None and (ranks := _new_ranks(before, _shapes(model))):
            progress(f"{len(ranks)} layers take their rank from {self.source}: {', '.join(ranks)}")
        if cache is not None and cache.hits and progress is not None:
            progress(f"{cache.hits} of {cache.hits + cache.misses} decompositions taken from {cache.folder}")
        return report

    def _load(self, model: nn.Module, options: dict[str, Any], pictures: Callable[[], Sequence[Tensor]]) -> LoadReport:
        backbone: Any = getattr(model, "backbone", None)
        if backbone is None:
            raise CheckpointError(f"TransductionHook: the model must have a backbone, got {type(model).__name__}.")
        state, known = Weights({}), None
        if self._is_file:
            state = unwrap_state_dict(read_checkpoint(self.source), self.source)
            others = [key for key in state if not key.startswith(_BACKBONE)]
            if len(others) < len(state) and not model.state_dict().keys().isdisjoint(others):
                follow_ranks_(model, state, self.source)
                # A head says what a static stage may have learned besides, such as expressions.
                spare = [f"head.{name}" for name in getattr(getattr(model, "head", None), "spare_layers", ())]
                report: LoadReport = load_image_weights_(model, state, source=self.source, classifier=spare, **options)
                if self.calibrate is not None and report.decomposed:
                    report.notes.append("not calibrated: kernels of a whole recogniser are fitted one by one")
                return report
            known = known_weights(state, self.source)
            if isinstance(known, KnownWeights):
                _check_known_backbone(backbone, known, self.source)
        if hasattr(backbone, "load_image_weights"):
            shown = {}
            if self.calibrate is not None:
                shown = {"pictures": pictures(), "budget": self.budget, "distill": self._calibration()["distill"]}
            report = backbone.load_image_weights(self.source, **shown, **options)
            if isinstance(known, KnownWeights):  # nothing is written to the head before the backbone is known to fit
                _fill_head_(getattr(model, "head", None), known, report)
            return report
        if self.calibrate is not None:
            raise CheckpointError(
                f"TransductionHook: calibrate must meet a backbone of timm, got {type(backbone).__name__} "
                "(set calibrate=None: its kernels are fitted one by one)."
            )
        if self._is_file:
            follow_ranks_(backbone, stock_names(backbone, state, source=self.source), self.source)
            return load_stock_weights_(backbone, state, source=self.source, **options)
        if self.source == "timm":
            raise CheckpointError(
                f"TransductionHook: source='timm' must meet a backbone of timm, got {type(backbone).__name__} "
                "(name the model, such as source='resnet50.a1_in1k')."
            )
        weights = download_timm_weights(self.source, getattr(backbone, "in_channels", 3))
        classifier = classifier_prefixes(self.source)
        return load_stock_weights_(backbone, weights, source=f"timm '{self.source}'", classifier=classifier, **options)


def _check_known_backbone(backbone: Any, known: KnownWeights, source: str) -> None:
    """Refuse a backbone that is not that of a known network, by the name that fits."""
    own = str(getattr(backbone, "model_name", type(backbone).__name__))
    architecture = known.networks[0].architecture
    if own.partition(".")[0] != architecture or not hasattr(backbone, "load_image_weights"):
        raise CheckpointError(
            f"TransductionHook: {source} holds {known.title}, whose backbone must be a TimmHOCPBackbone with "
            f"model_name='{architecture}', got '{own}'."
        )


@torch.no_grad()
def _fill_head_(head: Any, known: KnownWeights, report: LoadReport) -> None:
    """Give an `AffectHead` the rows of a known network that it has a place for; the report says which."""
    width = known.weight.shape[1]
    what = f"{len(known.bias)} outputs of {known.networks[0].architecture}"
    signs = "their shapes and the name of the file" if known.networks[0].by_name else "their shapes"
    report.notes.append(f"the weights are those of {known.title} by {signs}: {what}")
    if not isinstance(head, AffectHead) or head.hidden is not None or head.in_channels != width:
        report.notes.append(
            f"the head starts afresh: the rows are for an AffectHead without a hidden layer on {width} channels, which "
            "head_features=True, out_indices=[] of the backbone give"
        )
        return
    classes = 0 if head.classify is None else head.classify.out_features
    expressions = EXPRESSIONS[:classes] if classes in _KNOWN_CLASSES else ()
    for name, rows in (("regress", AFFECT), ("classify", expressions)):
        if not rows or not set(rows) <= set(known.networks[0].outputs):
            continue
        layer = head.get_submodule(name)
        for leaf, tensor in known.rows(rows).items():
            layer.get_parameter(leaf).copy_(tensor)
            report.copied.append(f"head.{name}.{leaf}")
        report.notes.append(f"head.{name} has the rows {', '.join(rows)}")
        report.classifier = []  # it was not left out


def _starts_from_checkpoint(runner: Runner) -> bool:
    """Tell whether the Runner will load something: ``resume`` alone takes the latest checkpoint, if there is one."""
    latest = runner._resume and find_latest_checkpoint(runner.work_dir) is not None
    told = [bool(runner._load_from is not None or latest)]
    dist.broadcast_object_list(told, src=0)  # one answer for all; the others may not see rank 0's disk
    return told[0]


def _check_calibration(calibrate: Any, budget: Any) -> None:
    """Refuse what says nothing about a calibration."""
    known = calibrate is None or (
        isinstance(calibrate, Mapping)
        and calibrate.keys() <= _CALIBRATION.keys()
        and all(type(value) is int and value >= _LEAST[key] for key, value in calibrate.items())
    )
    if not known:
        raise ValueError(
            "TransductionHook: calibrate must be a dict of batches (2 or more), pictures and distill (steps), got "
            f"{calibrate!r}."
        )
    share = isinstance(budget, int | float) and not isinstance(budget, bool) and 0 < budget <= 1
    if budget is not None and (calibrate is None or not share):
        raise ValueError(
            f"TransductionHook: budget must be a part in (0, 1], and needs calibrate, got {budget!r} and {calibrate!r}."
        )


def _check_source(source: str) -> None:
    """Refuse what is neither a file nor a word that timm knows."""
    if names_file(source):
        if not Path(source).expanduser().is_file():
            raise MissingDataError(
                f"TransductionHook: source must be 'timm', a timm model or a file, got '{source}' (train the static "
                "stage first, or name its checkpoint with --static-checkpoint)."
            )
        return
    try:
        if source != "timm":
            check_timm_name(source)
    except UnknownModelError as error:
        raise UnknownModelError(
            f"TransductionHook: source must be 'timm', a timm model or a file, got '{source}' (which has no suffix of "
            f"a file of weights; {error})"
        ) from error


def _fits_only(
    progress: Callable[[str], None] | None, cache: DecompositionCache | None
) -> Callable[[str], None] | None:
    """Leave out the lines of layers whose decomposition was kept: they take no time."""
    if progress is None or cache is None:
        return progress
    told = 0

    def tell(line: str) -> None:
        nonlocal told
        if cache.misses > told:
            told = cache.misses
            progress(line)

    return tell


def _initialize_now_(model: nn.Module) -> None:
    """Do what the Runner does after this hook, and would undo it: stock backbones and heads draw their weights."""
    if hasattr(model, "init_weights"):
        initialize: Any = model.init_weights
        initialize()
        vars(model)["init_weights"] = _already_initialized


def _already_initialized() -> None:
    """Stand in for ``init_weights`` until training starts."""


def _raise_everywhere(failure: Exception | None) -> None:
    """Let no rank wait for a broadcast that rank 0 will never send."""
    known = isinstance(failure, HOCPError)
    told: list[Any] = [None if failure is None else (type(failure) if known else RuntimeError, str(failure))]
    dist.broadcast_object_list(told, src=0)
    if failure is not None:
        raise failure
    if told[0] is not None:
        kind, message = told[0]
        raise kind(message)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def _new_ranks(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Say which layers have another number of components, by the shapes of their lambda."""
    names = [name for name in after if name.endswith(".weights") and before[name] != after[name]]
    return [f"{name.removesuffix('.weights')} {before[name][0]} -> {after[name][0]}" for name in names]


def _share_ranks(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Give the layers of every process as many components as they have on rank 0 by now; return the shapes."""
    shared: list[Any] = [_shapes(model)]
    dist.broadcast_object_list(shared, src=0)
    if shared[0] != _shapes(model):
        match_ranks_(model, {name: torch.empty(shape, device="meta") for name, shape in shared[0].items()})
    return shared[0]
