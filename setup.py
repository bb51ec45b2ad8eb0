"""Maps configs/ into the wheel; everything else about the package is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """A wheel holds configs/ inside the package; a checkout, editable or not installed, has it beside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            goal = Path(self.build_lib) / "weighted_freezing_fairseq" / "configs"
            shutil.rmtree(goal, ignore_errors=True)  # build/ may hold files of an earlier version
            shutil.copytree(Path(__file__).parent / "configs", goal)


setup(cmdclass={"build_py": BuildWithConfigs})
