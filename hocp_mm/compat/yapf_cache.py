"""Keep what several processes write at once out of MMEngine's configs: the kept grammar of YAPF."""

import importlib.util
import sys
import tempfile

__all__ = ["import_yapf_without_cache"]


def import_yapf_without_cache() -> str | None:
    """Import YAPF, which MMEngine lays out every config with, beside an empty cache folder.

    Fault: ``Config.pretty_text``, and with it every Runner, ends in ``EOFError: Ran out of input``: YAPF keeps its
        grammar pickled in the user's cache and renames the file to its final name before what it has written is
        flushed. Of two processes that start at once where the cache is empty, as ranks on a new machine do, one may
        read half a file; a process killed at that moment leaves half a file for all that follow.
    Where: YAPF 0.43.0.
    Cure: the grammar is built anew, which takes 20 ms; nothing is unpickled, and the user's cache is left as it is.
    Source: our tests in two processes on a new machine; ``yapf_third_party/_ylib2to3/pgen2/grammar.py``, ``dump``.

    Returns:
        A line for the log, or None where nothing had to be done.
    """
    if "yapf" in sys.modules or any(importlib.util.find_spec(name) is None for name in ("yapf", "platformdirs")):
        return None
    import platformdirs

    where = platformdirs.user_cache_dir
    with tempfile.TemporaryDirectory() as folder:
        platformdirs.user_cache_dir = lambda *args, **kwargs: folder
        try:
            import yapf  # noqa: F401
        finally:
            platformdirs.user_cache_dir = where
    return "yapf: its kept grammar is not used, another process may be writing it"
