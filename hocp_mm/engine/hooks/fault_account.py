"""One line about numbers that are not finite: when, which, first where, and with which files."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

from mmengine import dist
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from hocp_mm.engine.finite import first_non_finite, non_finite
from hocp_mm.engine.hooks.batch_account import Call, bad_inputs, bad_prediction, name_files, name_sample
from hocp_mm.engine.hooks.fault_search import search_backward, search_forward
from hocp_mm.engine.hooks.rank_pruning import optimizers_of
from hocp_mm.engine.wrapping import unwrapped


def account_of_fault(runner: Runner, calls: Sequence[Call], kind: str, got: str) -> tuple[bool, str]:
    """Say what is not finite in an iteration; all processes must call this, and all get the text of the best informed.

    Args:
        runner: The runner, in that iteration.
        calls: Those among which the fault is.
        kind: ``loss`` or ``gradient``.
        got: What was seen, unless a loss tells.

    Returns:
        Whether the weights were bad before, and the text, without a full stop.
    """
    model = unwrapped(runner.model)
    own = [call for call in calls if call.bad_terms()]
    call = next(iter(own or calls), None)
    place, parameter = _search(model, call, kind, partial(wrappers_of(runner)[0].optim_context, model))
    weight = next((name for name, p in model.named_parameters() if non_finite(p)), None)
    pixels = None if call is None else bad_inputs(call)
    if call is not None and own:
        got = ", ".join(f"{name}={value:g}" for name, value in call.bad_terms().items())
    when, got = moment(runner), got or "NaN or inf"
    if parameter is not None:
        got = f"{got} (such as {parameter})"
    # The lower the number, the nearer to the cause.
    if weight is not None:
        known = 0, f"weights must be finite, got NaN or inf in {weight} before {when}"
    elif pixels is not None:
        known = 1, f"pixels must be finite, got {pixels[0]} in {pixels[1]} ({got} at {when})"
    else:
        subject = "losses" if kind == "loss" else "gradients"
        files = "no batch" if call is None else name_files(call)
        known = 2 if own or parameter else 3, f"{subject} must be finite, got {got} at {when}, {place} ({files})"
    number, text = min(dist.all_gather_object(known))
    return number == 0, text


def account_of_predictions(runner: Runner, call: Call, output: object) -> str:
    """Say which prediction is not finite, and why.

    Args:
        runner: The runner, in a validation or a test.
        call: What the model was called with.
        output: What it returned; one of the predictions is not finite.

    Returns:
        The text, without a full stop.
    """
    model = unwrapped(runner.model)
    index, name, kind = bad_prediction(output) or (0, "nothing", "nothing")
    pixels, weight = bad_inputs(call), first_non_finite(model)
    if pixels is not None:
        place = f"from {pixels[0]} among the pixels of {pixels[1]}"
    elif weight is not None:
        place = f"from NaN or inf in the weights {weight}"
    else:
        place = _search(model, call, "loss", nullcontext)[0]
    text = f"predictions must be finite, got {kind} in {name} of {name_sample(call.samples, index)}"
    if not isinstance(runner.optim_wrapper, OptimWrapper):
        return f"{text}, {place}"
    return (
        f"{text} after iteration {runner.iter} (epoch {runner.epoch}), {place}; "
        f"lower the learning rate (now {rate(runner)}) or mend the data"
    )


def moment(runner: Runner) -> str:
    """Name the iteration that runs; count from 1, as the log does."""
    process = f", process {dist.get_rank()}" if dist.get_world_size() > 1 else ""
    return f"iteration {runner.iter + 1} (epoch {runner.epoch + 1}{process})"


def rate(runner: Runner) -> str:
    """Return the highest learning rate in force."""
    return f"{max(float(group['lr']) for o in optimizers_of(runner) for group in o.param_groups):g}"


def kinds_of(tensors: Sequence[Tensor]) -> str:
    """Return ``nan``, ``inf`` or both, as the tensors hold them; empty if they are finite."""
    return "/".join(sorted({kind for kind in map(non_finite, tensors) if kind}, reverse=True))


def wrappers_of(runner: Runner) -> list[Any]:
    """Return the wrapper of the optimizer, or those in an ``OptimWrapperDict``."""
    wrapper = cast("Any", runner.optim_wrapper)
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _search(
    model: nn.Module, call: Call | None, kind: str, context: Callable[[], AbstractContextManager[Any]]
) -> tuple[str, str | None]:
    """Find the first bad layer; a search that fails says so in its place: the fault itself matters more."""
    if call is None or not (call.args or call.kwargs):
        return "in an unknown layer", None
    unseen = "not seen again when the batch ran again"
    try:
        # The same passes in all processes, since layers may talk to each other.
        if kind == "loss":
            return search_forward(model, call, context) or unseen, None
        place, parameter = search_backward(model, call, context)
        return place or unseen, parameter
    except Exception as error:  # a model can do anything
        return f"in a layer unknown since the batch could not run again ({type(error).__name__})", None
