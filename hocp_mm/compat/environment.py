"""Faults of an installation that only its owner can cure: say which, and with what command."""

import ctypes
import importlib
import importlib.util
import sys
import warnings
from pathlib import Path

from hocp_mm.errors import HOCPError

__all__ = ["check_opencv", "check_setuptools", "check_torchvision"]


def check_opencv() -> None:
    """Refuse an OpenCV that is absent, cannot load or does not know ``IMREAD_COLOR_RGB`` (before 4.11).

    Fault: ``import cv2`` ends in ``libGL.so.1: cannot open shared object file``.
    Where: opencv-python and opencv-contrib-python, all versions, on servers and in containers without a desktop;
        mmengine, mmcv and mmaction2 ask for these builds. mmengine 0.11 no longer declares OpenCV but imports it.
    Cure: the system's library, or the headless build.
    Source: https://github.com/opencv/opencv-python#readme ("headless" packages).

    Raises:
        HOCPError: With both cures in the text.
    """
    if importlib.util.find_spec("cv2") is None:
        raise HOCPError("compat: MMEngine needs OpenCV, which is not installed: pip install opencv-python-headless")
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise HOCPError(
            f"compat: OpenCV cannot load ({error}). Either: apt install libgl1 libglib2.0-0, or: pip uninstall --yes"
            " opencv-python opencv-contrib-python && pip install opencv-contrib-python-headless"
        ) from error
    if not hasattr(cv2, "IMREAD_COLOR_RGB"):
        # No requirement says so, since the four builds of OpenCV exclude each other.
        version = getattr(cv2, "__version__", "unknown")
        raise HOCPError(f"compat: OpenCV must be 4.11 or newer, got {version}; upgrade the build that you have.")


def check_torchvision() -> None:
    """Refuse a torchvision that was built for another torch.

    Fault: ``operator torchvision::nms does not exist`` from deep inside timm, or from MMEngine's ``collect_env``,
        because the extension failed to load and torchvision swallowed that.
    Where: any torchvision beside a torch of another version, or a CUDA build of one beside a CPU build of the other.
    Cure: a pair from one index.
    Source: https://github.com/pytorch/vision#installation (table of pairs).

    The extension alone is loaded, as torchvision would do; importing torchvision takes a second or more. An absent
    torchvision passes: only timm needs it, and says so.

    Raises:
        HOCPError: With the loader's reason.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    extension = next(iter(sorted(Path(spec.origin).parent.glob("_C*.so"))), None)
    if extension is None:  # a build without compiled operators, or Windows
        return
    import torch

    try:
        ctypes.CDLL(str(extension))
    except OSError as error:
        raise HOCPError(
            f"compat: the installed torchvision does not load beside torch {torch.__version__} ({error})."
            " Install both in one command from one index: pip install torch torchvision"
        ) from error


def check_setuptools() -> None:
    """Refuse a Python without distutils, warn where ``pkg_resources`` is missing and would be used.

    Fault: MMEngine's ``collect_env``, run by every Runner, imports distutils, which left Python with 3.12 and which
        setuptools brings back; up to MMEngine 0.10.7, text configs with ``_base_ = 'mmaction::…'`` import
        pkg_resources, which left setuptools with 82.
    Cure: ``pip install 'setuptools<82'``, which setup.py asks for.
    Source: https://docs.python.org/3/whatsnew/3.12.html, https://setuptools.pypa.io/en/stable/history.html (v82).

    Raises:
        HOCPError: If distutils is missing.
    """
    # Not find_spec("distutils"): that imports all of setuptools, 0.1 s.
    if "distutils" not in sys.stdlib_module_names and importlib.util.find_spec("setuptools") is None:
        raise HOCPError("compat: MMEngine needs distutils, which setuptools provides: pip install 'setuptools<82'")
    from mmengine.utils import package_utils

    used = "pkg_resources" in package_utils.is_installed.__code__.co_names
    if used and importlib.util.find_spec("pkg_resources") is None:
        warnings.warn(
            "compat: this MMEngine reads `_base_ = 'mmaction::…'` through pkg_resources, which is not installed;"
            " such configs will fail. Cure: pip install 'setuptools<82'",
            RuntimeWarning,
            stacklevel=2,
        )
