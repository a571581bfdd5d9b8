"""Let MMEngine load local checkpoints through :func:`hocp_mm.checkpoints.reading.read_checkpoint`."""

from hocp_mm.checkpoints.reading import MapLocation, read_checkpoint

__all__ = ["load_checkpoints_safely", "load_from_local"]


def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Read a local file for MMEngine's ``CheckpointLoader``, which prints this function's name without ``load_from_``.

    Args:
        filename: Path of the file.
        map_location: As in ``torch.load``.

    Returns:
        The checkpoint.
    """
    return read_checkpoint(filename, map_location=map_location)


def load_checkpoints_safely() -> str | None:
    """Replace MMEngine's reader of local checkpoints.

    Fault: resuming, ``load_from`` and testing fail on torch >= 2.6 with ``Weights only load failed … HistoryBuffer``
        (MMEngine 0.10.7 leaves ``weights_only`` at torch's new default), or run whatever the file says (0.10.7 on
        older torch, and 0.11.0rc3, which passes ``weights_only=False``).
    Where: every MMEngine so far, hence no probe: either it fails or it is unsafe.
    Cure: our reader under the empty prefix of ``CheckpointLoader``, which stands for local paths. Addresses
        (``https://``, ``s3://``, …) keep MMEngine's loaders: download such a file and name the copy.
    Source: https://github.com/open-mmlab/mmengine/issues/1655

    Returns:
        A line for the log, or None if it is in place.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    if CheckpointLoader._schemes.get("") is load_from_local:
        return None
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)
    return "mmengine CheckpointLoader: local files are read without executing them"
