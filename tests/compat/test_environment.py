"""What only the owner of the installation can cure is refused with the command that does."""

import sys

import mmengine.utils.package_utils
import pytest

from hocp_mm.compat import environment
from hocp_mm.errors import HOCPError


def test_opencv_without_libgl_names_both_cures(fake_package):
    fake_package("cv2", {"__init__.py": "raise ImportError('libGL.so.1: cannot open shared object file')"})
    with pytest.raises(HOCPError, match=r"libGL\.so\.1.*apt install libgl1.*opencv-contrib-python-headless"):
        environment.check_opencv()


def test_absent_opencv_names_the_package(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HOCPError, match="pip install opencv-python-headless"):
        environment.check_opencv()


def test_opencv_that_cannot_read_colours_in_our_order_is_refused(fake_package):
    """Found with the lowest versions: stores could not be read, in an AttributeError."""
    fake_package("cv2", {"__init__.py": "__version__ = '4.10.0'"})
    with pytest.raises(HOCPError, match=r"OpenCV must be 4\.11 or newer, got 4\.10\.0"):
        environment.check_opencv()


def test_torchvision_of_another_torch_is_refused(fake_package):
    folder = fake_package("torchvision", {"__init__.py": "raise AssertionError('imported')"})
    (folder / "_C.so").write_bytes(b"\x7fELF built against another torch")
    with pytest.raises(HOCPError, match=r"torchvision does not load beside torch .*pip install torch torchvision"):
        environment.check_torchvision()


def test_torchvision_without_compiled_operators_passes(fake_package):
    fake_package("torchvision", {"__init__.py": "raise AssertionError('imported')"})
    environment.check_torchvision()


def test_the_installed_environment_passes():
    environment.check_opencv()
    environment.check_torchvision()
    environment.check_setuptools()


def test_missing_distutils_names_setuptools(monkeypatch):
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset())
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HOCPError, match=r"distutils.*setuptools<82"):
        environment.check_setuptools()


def test_missing_pkg_resources_warns_only_if_mmengine_uses_it(monkeypatch, recwarn):
    find_spec = environment.importlib.util.find_spec
    hide = lambda name: None if name == "pkg_resources" else find_spec(name)  # noqa: E731
    monkeypatch.setattr(environment.importlib.util, "find_spec", hide)
    monkeypatch.setattr(mmengine.utils.package_utils, "is_installed", lambda package: True)
    environment.check_setuptools()
    assert not recwarn.list

    def is_installed(package):  # as in mmengine 0.10.7
        import pkg_resources

        return pkg_resources.get_distribution(package)

    monkeypatch.setattr(mmengine.utils.package_utils, "is_installed", is_installed)
    with pytest.warns(RuntimeWarning, match="setuptools<82"):
        environment.check_setuptools()
