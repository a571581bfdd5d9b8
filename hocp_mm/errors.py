"""Errors a user can cause; command-line tools print their text alone, without a traceback.

Each also derives from the built-in class that a library user would catch. Messages read
``where: rule, got value (context).`` and name the file.
"""


class HOCPError(Exception):
    """Base of all errors whose text is meant for the user."""

    def __str__(self) -> str:
        """Return the bare text."""
        # KeyError.__str__ would print the repr, quotes and escapes included.
        return str(self.args[0]) if self.args else ""


class DataError(HOCPError, ValueError):
    """A file of a data set breaks a rule; the text names the file and the rule."""


class NoFaceError(DataError):
    """A detector saw no face in any frame; the text names the video and what a face must be like."""


class MissingDataError(HOCPError, FileNotFoundError):
    """A file or folder that a config names does not exist; the text says where to get it."""


class CheckpointError(HOCPError, RuntimeError):
    """Weights cannot be read, or do not belong to the model that should receive them."""


class DivergedError(HOCPError, FloatingPointError):
    """A loss, a gradient or a weight is NaN or infinite; the text says when, where and with which files."""


class UnknownModelError(HOCPError, KeyError):
    """A model name that timm does not have; the text lists the nearest names."""


class SomeFailedError(HOCPError):
    """Of several inputs some failed, and the others are done; the text says how many, and names the first."""


class OutputError(HOCPError, OSError):
    """A file or folder cannot be written; the text names it and what the system said."""
