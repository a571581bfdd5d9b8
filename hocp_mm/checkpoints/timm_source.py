"""Names and pretrained weights of timm models, with errors that say what to do."""

import difflib
from collections.abc import Collection

from torch import Tensor

from hocp_mm.errors import CheckpointError, UnknownModelError


def check_timm_name(name: str) -> None:
    """Refuse a name that timm does not have, without asking the network.

    Raises:
        UnknownModelError: Lists the nearest names.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=5)
        raise UnknownModelError(
            f"timm: the model name must be known, got {name!r} "
            f"(nearest: {', '.join(near) or 'none'}; timm {timm.__version__})."
        )


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
        CheckpointError: If timm has no weights for the name or they cannot be fetched.
        UnknownModelError: If timm does not know the name.
    """
    import timm

    check_timm_name(name)
    try:
        model = timm.create_model(name, pretrained=True, in_chans=in_chans)
    except (OSError, RuntimeError) as error:  # hub errors derive from OSError; "no pretrained weights" is RuntimeError
        raise CheckpointError(
            f"timm: pretrained weights of '{name}' could not be fetched ({error}). On a machine without network, "
            "copy the model's .safetensors or .pth file there and name it instead."
        ) from error
    return model.state_dict()
