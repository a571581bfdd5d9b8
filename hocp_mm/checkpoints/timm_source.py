"""Names and pretrained weights of timm models, with errors that say what to do."""

import difflib
import os
from collections.abc import Collection, Mapping

from torch import Tensor

from hocp_mm.checkpoints.reading import SUFFIXES
from hocp_mm.errors import CheckpointError, UnknownModelError

_MOST_NUMBERS = 2**26  # of an adapted kernel; the largest of timm has a million


def names_file(source: str) -> bool:
    """Tell the name of a file of weights, there or not, from that of a timm model.

    Returns:
        True if there is a folder in it, or it ends as files of weights do.

    Example:
        >>> names_file("resnet50.a1_in1k"), names_file("resnet50.pth"), names_file("weights/resnet50")
        (False, True, True)
    """
    return source.endswith(SUFFIXES) or os.sep in source or (os.altsep is not None and os.altsep in source)


def check_timm_name(name: str) -> None:
    """Refuse a name, or a tag behind its dot, that timm does not have, without asking the network.

    Raises:
        UnknownModelError: Lists the nearest names, or the tags that there are.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5)
        raise UnknownModelError(
            f"timm: the model name must be known, got {name!r} "
            f"(nearest: {', '.join(near) or 'none'}; timm {timm.__version__})."
        )
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        near = difflib.get_close_matches(tag, tags, n=5, cutoff=0.0)
        raise UnknownModelError(
            f"timm: the tag of pretrained weights must be known, got {name!r} "
            f"(nearest: {', '.join(near) or 'none'}; timm {timm.__version__})."
        ) from error


def classifier_prefixes(name: str) -> Collection[str]:
    """Return the name prefixes of the classifier of a timm model, such as ``('fc',)``."""
    import timm

    check_timm_name(name)
    config = timm.get_pretrained_cfg(name)
    classifier = getattr(config, "classifier", None) or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def download_timm_weights(name: str, in_chans: int = 3) -> dict[str, Tensor]:
    """Fetch the pretrained weights of a timm model, adapted to ``in_chans``; timm caches the download.

    Returns:
        The state dict, classifier included.

    Raises:
        CheckpointError: If timm has no weights for the name, they cannot be fetched, or they cannot be adapted.
        UnknownModelError: If timm does not know the name.
    """
    import timm

    check_timm_name(name)
    try:
        # Not `in_chans=`: where timm cannot adapt a stem, it only warns and leaves random weights.
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:  # hub errors derive from OSError; "no pretrained weights" is RuntimeError
        raise CheckpointError(
            f"timm: pretrained weights of '{name}' could not be fetched ({error}). On a machine without network, "
            "copy the model's .safetensors or .pth file there and name it instead."
        ) from error
    return adapt_first_conv(name, model.state_dict(), in_chans)


def adapt_first_conv(model_name: str, state: Mapping[str, Tensor], in_chans: int) -> dict[str, Tensor]:
    """Make timm weights for images fit a network with another number of input channels, as timm does.

    One channel gets the sum over the colours; more channels repeat them, scaled so that the sum over channels stays.
    Weights that are for ``in_chans`` channels already stay as they are.

    Args:
        model_name: Name in timm, which knows the first convolutions (there may be several).
        state: Weights in timm's names.
        in_chans: Input channels of the network that will receive them.

    Returns:
        New dict; all tensors but the first kernels are the same.

    Raises:
        CheckpointError: If a first kernel cannot be adapted, or would be larger than any network's.
        ValueError: If ``in_chans`` is not positive.

    Example:
        >>> import torch
        >>> grey = adapt_first_conv("resnet18", {"conv1.weight": torch.ones(64, 3, 7, 7)}, in_chans=1)
        >>> grey["conv1.weight"].shape, grey["conv1.weight"].unique().item()
        (torch.Size([64, 1, 7, 7]), 3.0)
    """
    import timm
    from timm.models import adapt_input_conv

    if in_chans < 1:
        raise ValueError(f"adapt_first_conv: in_chans must be positive, got {in_chans}.")
    check_timm_name(model_name)
    config = timm.get_pretrained_cfg(model_name)
    channels = config.input_size[0] if config is not None else in_chans
    adapted = dict(state)
    if channels == in_chans or config is None:
        return adapted
    names = config.first_conv or ()
    for name in (names,) if isinstance(names, str) else names:
        kernel = state.get(f"{name}.weight")
        # A stem may fold pixels into channels and so have a multiple of them.
        if kernel is None or kernel.ndim != 4 or kernel.shape[1] == in_chans or kernel.shape[1] % channels:
            continue
        if kernel.numel() == 0:  # fits no network, and the sum over no colours would be zeros of any number
            continue
        if kernel.numel() // kernel.shape[1] * in_chans > _MOST_NUMBERS:
            raise CheckpointError(
                f"timm: a first kernel for in_chans={in_chans} must have at most {_MOST_NUMBERS} numbers, got "
                f"'{name}.weight' of shape {tuple(kernel.shape)}."
            )
        try:
            adapted[f"{name}.weight"] = adapt_input_conv(in_chans, kernel)
        except NotImplementedError as error:
            raise CheckpointError(
                f"timm: the first kernel of {model_name} must fit in_chans={in_chans}, got '{name}.weight' of shape "
                f"{tuple(kernel.shape)}, which timm cannot adapt."
            ) from error
    return adapted
