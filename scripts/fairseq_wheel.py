"""Print the path of a wheel of fairseq for the Python that runs this file: of the cache, or built and put there.

    python scripts/fairseq_wheel.py REQUIREMENT [--full]

Most of the time of a plain build goes into three C++ extensions against torch's headers: libbase (BASE layers), libnat
(Levenshtein and insertion Transformers) and alignment_train (simultaneous translation). No command of this package
loads them. Without --full they are left out, and everything else is built as always: no file of fairseq is changed.

The cache is weighted_freezing_fairseq/fairseq in XDG_CACHE_HOME or ~/.cache, one folder per version of what a build
depends on. A wheel appears there whole or not at all, and one build at a time makes it.
"""

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

# fairseq's setup.py imports torch for these two classes only. (Hiding torch would not do: fairseq-fixed insists on it.)
# With this module in the place of torch's, it lists the same extensions, and those against torch's headers are dropped.
CPP_EXTENSION = """
import os
from setuptools import Extension
from setuptools.command.build_ext import build_ext

class CppExtension(Extension):
    pass

class BuildExtension(build_ext):
    def finalize_options(self):
        extensions = self.distribution.ext_modules
        extensions[:] = [extension for extension in extensions if not isinstance(extension, CppExtension)]
        super().finalize_options()
        self.parallel = int(os.environ.get("MAX_JOBS") or os.cpu_count())
"""


def key(requirement: str, full: bool) -> str:
    """What a wheel depends on: fairseq, the binary interfaces of Python, libc and numpy, and torch if it is full."""
    numpy = importlib.metadata.version("numpy").split(".")[0]
    parts = [requirement, sysconfig.get_config_var("SOABI"), "".join(platform.libc_ver()), f"numpy{numpy}"]
    return "-".join([*parts, f"torch{importlib.metadata.version('torch')}"] if full else parts)


def cache_folder(name: str) -> Path:
    """The folder of this wheel in the user's cache, or in the current folder where the cache is not writable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "weighted_freezing_fairseq" / "fairseq" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        print(f"the wheel is not kept for other environments: {error}", file=sys.stderr)
        folder = Path("fairseq-wheel", name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; a second one then finds the wheel of the first. The lock ends with its process."""
    with (folder / "lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a network disk may have no locks: then both build, and the last one stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_whole(wheel: Path) -> bool:
    """Whether every file in the wheel has its checksum."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


def build(requirement: str, full: bool, folder: Path) -> Path:
    """Build the wheel with the build tools of this environment, and move it into `folder`."""
    # Isolation would download a second torch of several GB. CUDA_HOME would add kernels that no text task uses and that
    # need a compiler for exactly torch's version of CUDA. -g0 leaves out debug information, which takes time to write.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_HOME"}
    environment["CFLAGS"] = f"-g0 {environment.get('CFLAGS', '')}".strip()
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as made:
        if not full:
            module = Path(made, "path", "torch", "utils", "cpp_extension.py")
            module.parent.mkdir(parents=True)
            for package in module.parents[:2]:
                (package / "__init__.py").touch()
            module.write_text(CPP_EXTENSION, encoding="utf-8")
            environment["PYTHONPATH"] = str(Path(made, "path"))
        # pip's own cache does not know a full wheel from this one, and would hand it to other projects of the user.
        options = ["--no-cache-dir", "--no-build-isolation", "--no-deps", "--wheel-dir", made]
        command = [sys.executable, "-m", "pip", "wheel", "--no-input", *options, requirement]
        subprocess.run(command, env=environment, stdout=sys.stderr, check=True)
        (wheel,) = Path(made).glob("*.whl")
        return wheel.replace(folder / wheel.name)


def main(requirement: str, *options: str) -> None:
    full = options == ("--full",)
    folder = cache_folder(key(requirement, full))
    with locked(folder):
        for left in folder.glob("building-*"):  # by a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        wheels = [wheel for wheel in folder.glob("*.whl") if is_whole(wheel)]
        print(wheels[0] if wheels else build(requirement, full, folder))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # pip has said why
