"""Higher-order CP convolutions, transduction and valence/arousal estimation for MMEngine and MMAction2."""

__version__ = "0.1.0"
